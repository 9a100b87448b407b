"""The server in this process, in front of a scripted one, for tests that talk to it."""

import json
import socket
import threading
import time

import openai
import uvicorn

from assistant.served.api import Api
from assistant.served.api_keys import Keys
from assistant.served.engine import ServedEngine
from assistant.served.running import configured, listen
from assistant.session import Session
from assistant.settings import Settings
from assistant.store.ledger import Ledger


class Running:
    """The server in this process, in front of a scripted server."""

    def __init__(self, upstream, guard, home, limits):
        self.upstream, self.ledger = upstream, Ledger.open(home / "ledger.db")
        self.session = Session(Settings(engine="openai", base_url=upstream.url, system=""), self.ledger)
        self.session.guard = guard
        self.session.engine = ServedEngine.connect(upstream.url, "", timeout=5, retries=1, context_length=2048)
        self.session.engine.server._pause = 0.001
        keys = Keys(home / "keys.toml")
        self.key, self.other = keys.add("ann"), keys.add("bob")
        self.api = Api(self.session, keys, limits)
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.server = uvicorn.Server(configured(self.api))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=self.key, max_retries=0, timeout=20)

    def close(self):
        self.server.should_exit = True
        self.thread.join()
        self.api.close()
        self.client.close()
        self.session.engine.server.close()
        self.ledger.close()

    def ask(self, *messages, **options):
        roles = ("user", "assistant")
        told = [{"role": roles[i % 2], "content": text} if isinstance(text, str) else text for i, text in enumerate(messages)]
        return self.client.chat.completions.create(model="scripted", messages=told, **options)

    def raw(self, body, *, path="/v1/chat/completions", key=None, headers=""):
        """Status and JSON of a request that no client library would send."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key or self.key}\r\nContent-Length: {len(body)}\r\n{headers}"
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        top, _, rest = answer.partition(b"\r\n\r\n")
        return int(top.split(b" ")[1]), json.loads(rest)

    def turns(self):
        rows = self.ledger.query("SELECT turn FROM ledger WHERE kind = 'output' ORDER BY seq")
        return [self.ledger.turn(turn) for (turn,) in rows]


def until(condition):
    """Wait for what must come."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
