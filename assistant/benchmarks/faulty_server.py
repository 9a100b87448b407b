"""A chat server that says what it was told to say, at a given pace, and fails in given ways: real HTTP over real sockets, no model.

Measures and tests everything between a client and a model without the model. `python -m assistant.benchmarks.faulty_server` runs one
and prints its port.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Fault = Literal[
    "closed",  # the connection is closed before anything is answered
    "reset",  # the same with a TCP reset
    "slow",  # nothing comes for `Script.slow` seconds
    "garbage",  # a web page with status 200
    "half",  # the stream ends in the middle of the reply
    "half_reset",  # the same with a TCP reset
    "malformed",  # an event that is not JSON, in the middle
    "error_event",  # an event that reports an error, in the middle
    "overloaded",  # status 503
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
BEFORE: frozenset[Fault] = frozenset({"closed", "reset", "slow", "garbage", "overloaded"})
"""Faults that come before the first word: asked again, the request can still succeed."""
TEXT = (
    "The sea looks blue for two reasons. Water takes up red light more than blue light, so what comes back from a few metres down has lost "
    "its warm colours. The surface also mirrors the sky, which is why one bay is grey on a cloudy morning and bright in the afternoon. "
    "Near the coast it can be green or brown, because rivers bring mud and tiny plants grow where there is light. Far out, where hardly "
    "anything lives near the surface, it is a deep blue. You can see this yourself: fill a white bath with clean water and look down its "
    "whole length."
)
"""What a reply may well be."""


@dataclass
class Script:
    """What a server says and how."""

    words: Sequence[str] = ("The ", "sea ", "is ", "blue.")
    pace: float = 0.0
    """Seconds before each word."""
    fault: Callable[[int], Fault | None] = lambda number: None
    """How request `number`, counted from 0, goes wrong; None for not at all."""
    slow: float = 5.0
    logprobs: bool = True
    echoes: bool = False
    """Whether it scores a given text; "sea" in the prompt makes the second word of the reply e³ times as likely."""
    turning: bool = False
    """Whether each reply begins a few words further on, so that no two of many are the same."""
    endless: bool = False
    """Whether it writes on when it has written as much as it was asked for."""
    key: str = ""
    """What a client must send; empty for nothing."""
    refuses: frozenset[str] = frozenset()
    """Parameters that are answered with status 400."""
    headers: Mapping[str, str] = field(default_factory=dict)
    late_end: float = 0.0
    """Seconds between the last event and the end of the answer."""
    flood: int = 0
    """Status of an answer without end to everything that is asked; 0 for none."""


class FaultyServer:
    """The server, on a loopback port of its own; `requests` and `hung_up` tell what happened. Use as a context manager."""

    def __init__(self, script: Script, model: str = "scripted") -> None:
        self.script, self.model = script, model
        self.requests: list[dict[str, Any]] = []
        """The bodies of the chat requests so far, each with the key that was sent as `authorization`."""
        self.hung_up = threading.Event()
        """Set when a client left in the middle of a reply."""
        self.connections = self.flooded = 0
        """Bytes of answers without end that were written so far."""
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FaultyServer:
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self.serve(),), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *details: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def serve(self) -> None:
        """Serve until stopped."""
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError):
            pass  # the client has gone, or the server is stopped
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow on this connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        text = await reader.readexactly(int(headers.get("content-length", 0)))
        body = json.loads(text) if text else {}
        if self.script.flood:
            return await self._flood(writer)
        if self.script.key and headers.get("authorization") != f"Bearer {self.script.key}":
            return _answer(writer, 401, {"error": {"message": f"Incorrect API key provided: {headers.get('authorization')}"}})
        if method == "GET" and path == "/v1/models":
            return _answer(writer, 200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        if path not in ("/v1/chat/completions", "/v1/completions"):
            return _answer(writer, 404, {"error": {"message": f"there is nothing at {path}"}})
        number = len(self.requests)
        self.requests.append({**body, "authorization": headers.get("authorization", "")})
        if refused := sorted(self.script.refuses & set(body)):
            return _answer(writer, 400, {"error": {"message": f"Unrecognized request argument supplied: {', '.join(refused)}"}})
        fault = self.script.fault(number)
        if fault == "overloaded":
            return _answer(writer, 503, {"error": {"message": "too many requests"}}, {"Retry-After": "0"})
        if fault == "garbage":
            return _answer(writer, 200, "<html><body>It works!</body></html>")
        if fault in ("closed", "reset"):
            return _hang_up(writer, abruptly=fault == "reset")
        if fault == "slow":
            await asyncio.sleep(self.script.slow)
        if not body.get("stream"):
            return _answer(writer, 200, self._whole(path, body))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            async for event in self._events(path, body, fault, 5 * number if self.script.turning else 0):
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
                if reader.at_eof():
                    raise ConnectionResetError
        except ConnectionError:
            self.hung_up.set()
            raise
        if fault in ("half", "half_reset"):
            return _hang_up(writer, abruptly=fault == "half_reset")
        await asyncio.sleep(self.script.late_end)
        writer.write(b"0\r\n\r\n")
        return True

    async def _flood(self, writer: asyncio.StreamWriter) -> bool:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0x10000)  # what is written is nearly what is read
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" % self.script.flood)
        try:
            while True:
                writer.write(b"10000\r\n" + b"[" * 0x10000 + b"\r\n")
                self.flooded += 0x10000
                await writer.drain()
        except ConnectionError:
            self.hung_up.set()
            raise

    async def _events(self, path: str, body: Mapping[str, Any], fault: Fault | None, start: int) -> AsyncIterator[bytes]:
        words = list(self.script.words)[: None if self.script.endless else body.get("max_tokens") or None]
        start %= max(len(words), 1)
        words = words[start:] + words[:start]
        middle = len(words) // 2
        if path.startswith("/v1/chat"):
            yield _event({**self._frame(), "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for number, word in enumerate(words):
            if self.script.pace:
                await asyncio.sleep(self.script.pace)
            if number == middle and fault in ("half", "half_reset"):
                return
            if number == middle and fault == "malformed":
                yield b"data: {not json\n\n"
            if number == middle and fault == "error_event":
                yield _event({"error": {"message": "the model ran out of memory"}})
            yield _event({**self._frame(), "choices": [self._choice(path, word, number, body, None)]})
        yield _event({**self._frame(), "choices": [self._choice(path, "", len(words), {}, self._reason(body))]})
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event({**self._frame(), "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(words)}})
        yield b"data: [DONE]\n\n"

    def _reason(self, body: Mapping[str, Any]) -> str:
        return "length" if body.get("max_tokens", math.inf) < len(self.script.words) else "stop"

    def _frame(self) -> dict[str, Any]:
        return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": self.model, "system_fingerprint": "fp_1"}

    def _choice(self, path: str, word: str, number: int, body: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        value = -0.1 * (1 + number % 5)
        other = {"token": "…", "logprob": math.log(1 - math.exp(value)) - 0.1}
        entry = {"token": word, "logprob": value, "top_logprobs": [{"token": word, "logprob": value}, other]}
        shown = bool(body.get("logprobs")) and self.script.logprobs and bool(word)
        if path.startswith("/v1/chat"):
            content = {"delta": {"content": word} if word else {}}
            return {"index": 0, **content, "logprobs": {"content": [entry]} if shown else None, "finish_reason": reason}
        told = {"tokens": [word], "token_logprobs": [value], "top_logprobs": [{word: value, "…": other["logprob"]}]}
        return {"index": 0, "text": word, "logprobs": told if shown else None, "finish_reason": reason}

    def _whole(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        text = "".join(self.script.words)
        if body.get("echo") and self.script.echoes:
            return {
                **self._frame(),
                "choices": [{"index": 0, "text": "", "finish_reason": "length", "logprobs": self._echo(body["prompt"])}],
            }
        return {**self._frame(), "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "text": text,
                                              "finish_reason": self._reason(body)}]}  # fmt: skip

    def _echo(self, text: str) -> dict[str, Any]:
        """The tokens of a text that ends with the reply, one that is generated after it included, and their log-probabilities."""
        words = list(self.script.words)
        prompt = text.removesuffix("".join(words))
        tokens, values = [*prompt.split(" "), *words, "…"], [-1.0] * len(prompt.split(" "))
        values += [-0.1 * (1 + number % 5) for number in range(len(words))]
        if "sea" not in prompt:
            values[-len(words) + 1] -= 3.0
        return {"tokens": tokens, "token_logprobs": [None, *values[1:], -0.5]}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _answer(writer: asyncio.StreamWriter, status: int, value: object, headers: Mapping[str, str] = {}) -> bool:
    body, kind = (value.encode(), "text/html") if isinstance(value, str) else (json.dumps(value).encode(), "application/json")
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)
    return True


def _hang_up(writer: asyncio.StreamWriter, *, abruptly: bool) -> bool:
    if abruptly:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    return False


def main(arguments: Sequence[str]) -> None:
    """Run one with `[words] [pace] [senseless]` until standard input ends; the port goes to stdout. It says sentences, or words without
    sense, which a guard looks at more closely."""
    words, pace = (int(arguments[0]), float(arguments[1])) if len(arguments) > 1 else (64, 0.02)
    said = [f"word{i} " for i in range(7)] if "senseless" in arguments else [f"{word} " for word in TEXT.split()]
    script = Script(words=[said[i % len(said)] for i in range(words)], pace=pace, turning=True)
    with FaultyServer(script) as server:
        print(server.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
