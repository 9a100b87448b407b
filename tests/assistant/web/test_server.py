"""The application in a browser: reachable with the secret from its own page, and from nowhere else."""

import asyncio
import socket
import sys

import pytest

pytest.importorskip("textual_serve", reason="the extra `serve` is not installed")
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer

from assistant.errors import UsageError
from assistant.web.server import GuardedServer, is_loopback

COMMAND = f"{sys.executable} -m tests.assistant.web.page_app"


@pytest.fixture
async def page():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    guarded = GuardedServer(COMMAND, port=port, sessions=1)
    async with TestClient(TestServer(await guarded._make_app(), port=port)) as client:
        client.guarded, client.origin = guarded, f"http://127.0.0.1:{port}"
        client.base = f"/{guarded.token}"
        yield client


async def test_the_page_loads_nothing_from_elsewhere(page):
    response = await page.get(page.base + "/")
    text = await response.text()
    assert response.status == 200 and "https://" not in text and "googleapis" not in text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "https:" not in policy
    assert response.headers["Referrer-Policy"] == "no-referrer"
    for path in ("css/xterm.css", "js/textual.js", "fonts/RobotoMono-VariableFont_wght.ttf"):
        assert f"{page.base}/static/{path}" in text
        assert (await page.get(f"{page.base}/static/{path}")).status == 200


@pytest.mark.parametrize("path", ["/", "/ws", "/static/js/textual.js", "/x/ws", "/{almost}/ws", "/static/../../app_service.py"])
async def test_without_the_secret_there_is_nothing(page, path):
    *first, last = page.guarded.token
    path = path.format(almost="".join(first) + ("A" if last != "A" else "B"))
    response = await page.get(path, headers={"Origin": page.origin})
    assert response.status == 404 and page.guarded.token not in await response.text()


async def test_a_visit_that_is_no_websocket_is_one_sentence_and_no_session(page, caplog):
    response = await page.get(page.base + "/ws", headers={"Origin": page.origin})
    assert response.status == 400 and "WebSocket" in await response.text()
    assert page.guarded.running == 0 and not caplog.records


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", None])
async def test_a_foreign_page_cannot_connect(page, origin):
    with pytest.raises(WSServerHandshakeError) as refused:
        await page.ws_connect(page.base + "/ws", origin=origin)
    assert refused.value.status == 403 and page.guarded.running == 0


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", ""])
async def test_another_host_name_is_refused(page, host):
    host = host.format(port=page.port)
    assert (await page.get(page.base + "/", headers={"Host": host})).status in (400, 403)


async def test_the_real_application_is_on_the_page_and_only_as_often_as_allowed(page):
    async with page.ws_connect(page.base + "/ws?width=100&height=30", origin=page.origin) as socket_:
        seen = b""
        async with asyncio.timeout(60):
            while "写消息".encode() not in seen and b"Write a message" not in seen:
                message = await socket_.receive()
                seen += message.data if isinstance(message.data, bytes) else str(message.data).encode()
        with pytest.raises(WSServerHandshakeError) as refused:
            await page.ws_connect(page.base + "/ws", origin=page.origin)
        assert refused.value.status == 503
        await socket_.send_json(["stdin", "\x11"])  # Ctrl+Q
        async with asyncio.timeout(30):
            async for _ in socket_:
                pass
    async with asyncio.timeout(30):
        while page.guarded.running:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)  # the pipes of the program close behind it


def test_only_loopback_is_served():
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"))
    for host in ("0.0.0.0", "192.168.1.2", "example.org", "::", ""):
        assert not is_loopback(host)
        with pytest.raises(UsageError, match="SSH tunnel"):
            GuardedServer("true", host=host)
    assert len(GuardedServer("true").token) >= 32 and GuardedServer("true").token != GuardedServer("true").token
