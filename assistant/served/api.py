"""The glass box as a server: an OpenAI-compatible front of the same pipeline, so that other clients get filter, moderation and ledger.

client ─► key, limits ─► earlier messages filtered ─► pipeline.respond (in a thread of its own) ─► events as chunks
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from assistant import pipeline
from assistant.errors import ModelError, PellucidError, UsageError
from assistant.events import Event, Finished, Moderated, Prefilled, PromptChecked, Text, Withdrawn
from assistant.served import api_answers as answers
from assistant.served.api_keys import Keys
from assistant.served.api_requests import BadRequest, ChatRequest, chat, parse, texts
from assistant.served.limits import Limits, RateLimit, read_body
from assistant.session import Session
from assistant.turn import Message, Turn
from safety.verdict import Action

_REMEMBERED = 10_000
_KINDS = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}
Handler = Callable[[Request, str], Awaitable[Response]]


class Api:
    """The server's part between HTTP and a loaded session; `app` is the ASGI application."""

    def __init__(self, session: Session, keys: Keys, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._session, self._keys = session, keys
        self._rate = RateLimit(self.limits.per_minute)
        self._threads = ThreadPoolExecutor(self.limits.at_once, thread_name_prefix="reply")
        self._busy = 0
        self._pseudonyms: dict[str, str] = {}
        self._known: OrderedDict[str, pipeline.Request] = OrderedDict()  # how to go on, by what the client has seen so far
        self._passed: OrderedDict[str, str | None] = OrderedDict()  # messages judged before: None, or their redacted form
        self.app = Starlette(routes=[
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._guarded(self._model), methods=["GET"]),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/moderations", self._guarded(self._moderations), methods=["POST"]),
        ], exception_handlers={404: _nothing_there, 405: _nothing_there})  # fmt: skip

    @property
    def many_at_once(self) -> bool:
        """Whether replies are written side by side (a served model), or one after the other (the local one)."""
        assert self._session.engine is not None
        return self._session.engine.concurrent

    def prepare(self) -> None:
        """Make the guard ready for many requests at once."""
        assert self._session.guard is not None
        self._session.guard.serve_many()

    def close(self) -> None:
        """Wait for the replies in the making."""
        self._threads.shutdown(wait=True)

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """`handler` for known keys within their limits; every error in the client's own layout."""

        async def guarded(request: Request) -> Response:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            owner = self._keys.owner(key.strip()) if scheme.lower() == "bearer" else None
            if owner is None:
                return _error(401, "this key is not known here: see `pellucid serve-api --add-key`", code="invalid_api_key")
            if wait := self._rate.wait(owner):
                again = {"Retry-After": str(math.ceil(wait))}
                return _error(429, "too many requests: slow down", code="rate_limit_exceeded", headers=again)
            try:
                return await handler(request, owner)
            except BadRequest as error:
                return _error(error.status, str(error), parameter=error.parameter)
            except PellucidError as error:
                return _failed(error)

        return guarded

    async def _models(self, request: Request, owner: str) -> Response:
        return JSONResponse({"object": "list", "data": [answers.model(self._engine_name())]})

    async def _model(self, request: Request, owner: str) -> Response:
        self._known_here(request.path_params["name"])
        return JSONResponse(answers.model(self._engine_name()))

    def _known_here(self, name: str) -> None:
        """Raises BadRequest where there is no such model."""
        if name != self._engine_name():
            raise BadRequest(f"there is no model {name!r} here, only {self._engine_name()!r}", "model", 404)

    async def _moderations(self, request: Request, owner: str) -> Response:
        given = texts(parse(await read_body(request, self.limits)))
        guard = self._session.guard
        assert guard is not None
        verdicts = await self._aside(lambda: [guard.filter_prompt(text) for text in given])
        results = [answers.moderation(verdict) for verdict in verdicts]
        return JSONResponse({"id": f"modr-{pipeline.new_id()}", "model": guard.policy, "results": results})

    async def _chat(self, request: Request, owner: str) -> Response:
        asked = chat(parse(await read_body(request, self.limits)), self._session.settings)
        if asked.model:
            self._known_here(asked.model)
        if self._busy >= self.limits.at_once:
            return _error(503, "too many replies at once: try again in a moment", code="overloaded", headers={"Retry-After": "1"})
        cancel = threading.Event()
        events = self._events(asked, owner, cancel)
        if asked.stream:
            return Streamed(self._stream(events, asked, owner), cancel)
        return await self._until_left(request, self._answer(events, asked, owner), cancel)

    def _engine_name(self) -> str:
        assert self._session.engine is not None
        return self._session.engine.info.name

    def _request(self, asked: ChatRequest, owner: str) -> pipeline.Request:
        """What the pipeline is asked. A conversation that the log has goes on there; other messages are filtered as prompts are."""
        client = self._pseudonym(owner)
        known = self._known.get(_fingerprint(owner, asked.system, asked.earlier)) if asked.earlier else None
        if known is not None:
            return replace(known, prompt=asked.prompt, sampling=asked.sampling)
        earlier: list[Message] = []
        for message in (Message("system", asked.system), *asked.earlier):
            if message.text == self._session.settings.system or not message.text:
                passed: str | None = message.text
            else:
                passed = self._filtered(message)
            if passed is None:  # the pipeline says why, and logs it
                return pipeline.Request(message.text, asked.sampling, earlier=tuple(earlier[1:]), client=client)
            earlier.append(replace(message, text=passed))
        return pipeline.Request(asked.prompt, asked.sampling, earlier=tuple(earlier[1:]), system=earlier[0].text, client=client)

    def _pseudonym(self, owner: str) -> str:
        """What the log calls the owner of a key; asked once, for the log may be busy writing."""
        if owner not in self._pseudonyms:
            self._pseudonyms[owner] = self._session.ledger.pseudonym(owner)
        return self._pseudonyms[owner]

    def _filtered(self, message: Message) -> str | None:
        """The text of a message that the client brings along, redacted where needed; None where it must not reach the model."""
        guard = self._session.guard
        assert guard is not None
        key = hashlib.sha256(f"{guard.policy}\0{message.text}".encode()).hexdigest()
        if key not in self._passed:
            verdict = guard.filter_prompt(message.text)
            shown = None if verdict.action is Action.BLOCK else verdict.redacted if verdict.redacted is not None else message.text
            if verdict.policy == guard.policy:
                _remember(self._passed, key, shown)
            return shown
        return self._passed[key]

    async def _aside(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work)

    async def _events(self, asked: ChatRequest, owner: str, cancel: threading.Event) -> AsyncIterator[Event]:
        """The events of a turn, all of which runs in one thread. Leaving early cancels it; it is logged either way."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | Exception | None]()

        def work() -> None:
            last: Exception | None = None
            try:
                for event in self._session.respond(self._request(asked, owner), cancel):
                    if isinstance(event, PromptChecked | Prefilled | Text | Moderated | Withdrawn | Finished):
                        loop.call_soon_threadsafe(queue.put_nowait, event)
            except Exception as error:
                last = error
            finally:
                self._busy -= 1
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
                    loop.call_soon_threadsafe(queue.put_nowait, last)

        self._busy += 1
        self._threads.submit(work)
        try:
            while (event := await queue.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            cancel.set()

    async def _answer(self, events: AsyncIterator[Event], asked: ChatRequest, owner: str) -> Response:
        async for event in events:
            if isinstance(event, Finished):
                self._keep(owner, asked, event.turn, event.turn.reply)
                return JSONResponse(answers.completion(event.turn, logprobs=asked.logprobs))
        raise ModelError("the reply ended without an end: ask again")

    async def _until_left(self, request: Request, answer: Awaitable[Response], cancel: threading.Event) -> Response:
        """`answer`, unless the client hangs up first: then the reply is stopped."""

        async def left() -> None:
            while not await request.is_disconnected():
                await asyncio.sleep(0.1)
            cancel.set()

        watch = asyncio.create_task(left())
        try:
            return await answer
        finally:
            watch.cancel()

    async def _stream(self, events: AsyncIterator[Event], asked: ChatRequest, owner: str) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a streamed answer."""
        sent, frame = "", {}  # type: str, dict[str, Any]
        async for event in events:
            match event:
                case PromptChecked():
                    frame = answers.frame(event.turn, self._engine_name(), time.time_ns() // 1000)
                    yield _chunk(frame, {"role": "assistant", "content": ""}, answers.first(event))
                case Prefilled():
                    yield _chunk(frame, {}, {"began": True})
                case Text():
                    sent += event.text
                    yield _chunk(frame, {"content": event.text})
                case Moderated(final=False):
                    yield _chunk(frame, {}, {"output_verdict": event.verdict.to_dict()})
                case Withdrawn():
                    refusal = ("\n\n" if sent else "") + event.refusal
                    sent += refusal
                    yield _chunk(frame, {"content": refusal}, {"withdrawn": True, "refusal": event.refusal})
                case Finished():
                    turn = event.turn
                    if not sent and turn.reply:  # a blocked prompt: nothing was generated
                        sent = turn.reply
                        yield _chunk(frame, {"content": turn.reply})
                    self._keep(owner, asked, turn, sent)
                    last = _chunk(frame, {}, answers.whole(turn), answers.reason(turn))
                    if asked.logprobs:
                        last["choices"][0]["logprobs"] = answers.told(turn)
                    yield last
                    if asked.with_usage:
                        yield {**frame, "choices": [], "usage": answers.usage(turn)}

    def _keep(self, owner: str, asked: ChatRequest, turn: Turn, sent: str) -> None:
        """Know the conversation again when the client goes on with it."""
        shown = (*asked.earlier, Message("user", asked.prompt), Message("assistant", sent))
        on = pipeline.Request(
            "", turn.sampling, conversation=turn.conversation, parent=turn.id, earlier=turn.earlier, system=turn.system, client=turn.client
        )
        _remember(self._known, _fingerprint(owner, asked.system, shown), on)


class Streamed(Response):
    """Server-sent events; a client that hangs up stops the reply."""

    def __init__(self, chunks: AsyncIterator[dict[str, Any]], cancel: threading.Event) -> None:
        self._chunks, self._cancel = chunks, cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._cancel.set()

        watch = asyncio.create_task(left())
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        try:
            try:
                start = await anext(self._chunks, None)
            except PellucidError as error:  # nothing was said yet: an error with a status
                await _failed(error)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(send, start)
            async for chunk in self._chunks:
                await self._send(send, chunk)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        except PellucidError as error:
            await self._send(send, json.loads(bytes(_failed(error).body)))
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._cancel.set()
            watch.cancel()

    async def _send(self, send: Send, chunk: dict[str, Any] | None) -> None:
        if chunk is not None:
            body = b"data: " + json.dumps(chunk, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _chunk(frame: dict[str, Any], delta: dict[str, Any], more: dict[str, Any] | None = None, reason: str | None = None) -> dict[str, Any]:
    out = {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return {**out, "pellucid": more} if more else out


def _fingerprint(owner: str, system: str, messages: Sequence[Message]) -> str:
    return hashlib.sha256(json.dumps([owner, system, *([m.role, m.text] for m in messages)]).encode()).hexdigest()


def _remember(store: OrderedDict[str, Any], key: str, value: Any) -> None:
    store[key] = value
    while len(store) > _REMEMBERED:
        store.popitem(last=False)


def _failed(error: PellucidError) -> JSONResponse:
    return _error(400 if isinstance(error, UsageError) else 502 if isinstance(error, ModelError) else 503, str(error))


def _error(
    status: int, message: str, *, parameter: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return JSONResponse(answers.error(message, kind, parameter=parameter, code=code), status, headers)


async def _nothing_there(request: Request, error: Exception) -> Response:
    return _error(404, "there is nothing here: the paths are /v1/chat/completions, /v1/moderations and /v1/models")
