"""The terminal application in a browser, for the person at this machine and nobody else.

textual-serve runs one `pellucid chat` for every open page and passes bytes between both. By itself it lets any page that is open in the
browser connect: a WebSocket from a foreign origin could drive the chat and read the log. Here every request needs the secret in its
path, the right Host (against DNS rebinding) and, for the WebSocket, the right Origin; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp_jinja2
import jinja2
from aiohttp import web
from textual_serve.server import Server, to_int

from assistant.errors import UsageError
from assistant.web.loopback import is_loopback
from safety.resources import data_path

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GuardedServer(Server):
    """textual-serve behind a secret, checks of Host and Origin, and a limit on how many pages run at once."""

    def __init__(self, command: str, *, host: str = "127.0.0.1", port: int = 8000, sessions: int = 2, token: str | None = None) -> None:
        """`command` starts the application in a shell. Raises UsageError for a host that others could reach."""
        if not is_loopback(host):
            raise UsageError(f"{host} can be reached from other machines: serve on 127.0.0.1 and use an SSH tunnel")
        super().__init__(command, host=host, port=port, title="Pellucid", templates_path=str(data_path("web")))
        self.token = token or secrets.token_urlsafe(24)
        self.sessions = sessions
        self.running = 0
        names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
        self.hosts = frozenset(f"{name}:{port}" for name in names)
        self.origins = frozenset(f"http://{name}" for name in self.hosts)

    @property
    def address(self) -> str:
        """What the person opens; whoever has it can use the application."""
        return f"{self.public_url}/{self.token}/"

    async def _make_app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 20)
        aiohttp_jinja2.setup(app, loader=jinja2.FileSystemLoader(self.templates_path), autoescape=True)
        secret = f"/{self.token}"
        app.add_routes(
            [
                web.get(secret + "/", self.handle_index, name="index"),
                web.get(secret + "/ws", self.handle_websocket, name="websocket"),
                web.get(secret + "/download/{key}", self.handle_download, name="download"),
                web.static(secret + "/static", self.statics_path, show_index=False, name="static"),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what does not come from the page itself; say to the browser that nothing else may be loaded."""
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPNotFound(text="Open the address that `pellucid serve` printed.")
        if request.headers.get("Host", "") not in self.hosts:
            raise web.HTTPForbidden(text="This address is not served here.")
        origin = request.headers.get("Origin")
        websocket = request.path.endswith("/ws")
        if (origin is None and websocket) or (origin is not None and origin not in self.origins):
            raise web.HTTPForbidden(text="Requests from other pages are refused.")
        if websocket and not web.WebSocketResponse().can_prepare(request).ok:
            raise web.HTTPBadRequest(text="Only the page itself opens this address, as a WebSocket.")
        if websocket and self.running >= self.sessions:
            raise web.HTTPServiceUnavailable(text=f"{self.sessions} pages are open already: close one first.")
        return await handler(request)

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """The page; the only script that runs is ours."""
        nonce = secrets.token_urlsafe(16)
        here = request.headers["Host"]
        context = {
            "nonce": nonce,
            "static": f"/{self.token}/static/",
            "websocket": f"ws://{here}/{self.token}/ws",
            "font_size": max(8, min(40, to_int(request.query.get("fontsize", "16"), 16))),
            "title": self.title,
        }
        response = aiohttp_jinja2.render_template("app_index.html", request, context)
        response.headers.update(
            {
                "Content-Security-Policy": (
                    f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
                    f"font-src 'self'; img-src 'self' data:; connect-src 'self' ws://{here}; base-uri 'none'; form-action 'none'; "
                    "frame-ancestors 'none'"
                ),
                "Referrer-Policy": "no-referrer",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }
        )
        return response

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """One page: counted while it is open."""
        self.running += 1
        try:
            response: web.WebSocketResponse = await super().handle_websocket(request)
            return response
        finally:
            self.running -= 1

    async def on_startup(self, app: Any) -> None:
        """Nothing is printed here: the command does that."""

    def initialize_logging(self) -> None:
        """The root logger is left alone."""
