"""One streamed request to a server: tried again with growing pauses while nothing has come, given up cleanly, closed when cancelled.

All connections live on one background event loop, so that cancelling a request at whatever point closes its socket: the server sees
that nobody listens any more. The caller's side is an ordinary blocking iterator.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import random
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from importlib.util import find_spec
from typing import Any, Literal

import openai

from assistant.errors import ModelError
from assistant.served.address import without
from assistant.served.answers import LONGEST_ANSWER, TooLong, cut_complaint, value, whole
from assistant.served.sse import MalformedStream, events

CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
_WAKE_SECONDS = 0.05
"""How long a cancelled caller waits at most before it notices."""
_END_SECONDS, _END_PIECES = 2.0, 4
"""How long, and for how much, the end of an answer is waited for after `[DONE]`."""
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_MESSAGE = 300
OPTIONAL = ("top_k", "min_p", "repetition_penalty", "repeat_penalty")
"""Sampling parameters that the OpenAI protocol does not have and many servers do."""


class Server:
    """A connection pool to one server. Safe to use from many threads."""

    def __init__(self, url: str, key: str, *, timeout: float, retries: int, pause: float = FIRST_PAUSE) -> None:
        self.url, self._key = url, key
        self.timeout, self.retries, self._pause = timeout, retries, pause
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="served", daemon=True).start()
        self._streams: set[Stream] = set()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        self._client = self.wait(self._open())
        atexit.register(self.close)

    async def _open(self) -> openai.AsyncOpenAI:
        limits = openai.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout))
        made = openai.DefaultAioHttpClient if find_spec("aiohttp") else openai.DefaultAsyncHttpxClient  # the first costs half as much
        self._pool = made(event_hooks={"response": [cut_complaint]}, timeout=limits)
        self._headers = {"Authorization": f"Bearer {self._key or 'none'}", "Accept": "text/event-stream, application/json"}
        return openai.AsyncOpenAI(base_url=self.url, api_key=self._key or "none", timeout=limits, max_retries=0, http_client=self._pool)

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`, done on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def request(self, path: Literal["/models", "/completions"], body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One plain answer of at most `LONGEST_ANSWER` bytes: the list of models, or a completion of `body`. Raises ModelError."""

        async def once() -> Any:
            if path == "/models":
                asked = self._client.models.with_streaming_response.list()
            else:
                asked = self._client.completions.with_streaming_response.create(**_arguments(body or {}))
            async with asked as response:
                return value(await whole(response.iter_bytes()))

        async def work() -> Any:
            for attempt in range(self.retries + 1):
                try:
                    return await once()
                except Exception as error:
                    if attempt == self.retries or not _worth_another(error):
                        raise self.translated(error) from error
                    await asyncio.sleep(self._pause_before(attempt, error))

        answer = self.wait(work())
        if not isinstance(answer, dict):
            raise ModelError(f"the server {self.url} does not speak the OpenAI protocol: check --base-url, which usually ends in /v1")
        return answer

    def request_for(self, path: str, body: dict[str, Any]) -> Any:
        """A request for a streamed answer, not sent yet."""
        return self._pool.build_request("POST", self.url + path, json={**body, "stream": True}, headers=self._headers)

    @contextlib.asynccontextmanager
    async def streamed(self, request: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of one streamed answer. Through the client's own pool of connections, and past its `create`: that looks through the
        whole conversation for files to upload, which takes as long as everything else here. Raises the client's errors."""
        try:
            response = await self._pool.send(request, stream=True)
        except Exception as error:
            kind = openai.APITimeoutError if "Timeout" in type(error).__name__ else openai.APIConnectionError
            raise kind(request=request) from error
        try:
            if response.is_error:
                complaint = await response.aread()
                told = value(complaint)
                text = complaint.decode("utf-8", "replace") or f"Error code: {response.status_code}"
                raise openai.APIStatusError(text if told is None else str(told), response=response, body=told)
            yield response.aiter_bytes()
        finally:
            await response.aclose()

    @contextlib.contextmanager
    def watched(self, stream: Stream) -> Iterator[None]:
        """While inside (on the loop), the stream's caller is woken when it is cancelled."""
        self._streams.add(stream)
        if self._watch is None:
            self._watch = self._loop.create_task(self._look_for_cancelled())
        try:
            yield
        finally:
            self._streams.discard(stream)

    async def _look_for_cancelled(self) -> None:
        """One look at all of them: that many callers need not look up themselves all the time."""
        while self._streams:
            for stream in [stream for stream in self._streams if stream.cancelled]:
                self._streams.discard(stream)
                stream.leave()
            await asyncio.sleep(_WAKE_SECONDS)
        self._watch = None

    def stream(self, path: str, body: dict[str, Any], cancel: threading.Event | None) -> Stream:
        """A streamed answer to `body`; iterate over its events."""
        return Stream(self, path, body, cancel)

    def close(self) -> None:
        """Close every connection; done at the end of the program in any case."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self.wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self) -> None:
        for stream in self._streams:
            stream.leave()
        if self._watch is not None:
            self._watch.cancel()
        await self._client.close()

    def _pause_before(self, attempt: int, error: Exception) -> float:
        asked = str(error.response.headers.get("retry-after", "")) if isinstance(error, openai.APIStatusError) else ""
        if asked.isdecimal():
            return min(float(asked), LONGEST_PAUSE)
        return float(min(self._pause * 2**attempt, LONGEST_PAUSE) * random.uniform(0.75, 1.25))

    def translated(self, error: Exception) -> Exception:
        """What went wrong as one sentence that says what to do next; no key in it."""
        url, reason = self.url, without(self._key, _reason(error))
        status = error.status_code if isinstance(error, openai.APIStatusError) else 0
        if _caused_by(error, ssl.SSLError):
            return ModelError(f"the certificate of {url} is not accepted ({reason}): check the address, or set SSL_CERT_FILE")
        if "Timeout" in type(error).__name__ and "Timeout" in type(_deepest(error)).__name__:  # not a refusal that is called so
            return ModelError(f"the server {url} said nothing for {self.timeout:g} seconds: try again, or raise server_timeout")
        if isinstance(error, openai.APIConnectionError):
            return ModelError(f"the server {url} cannot be reached ({reason}): start it, or check --base-url")
        if status in (401, 403):
            return ModelError(f"the server {url} does not accept the key: put the right one into PELLUCID_API_KEY or the keyring")
        if status == 404:
            return ModelError(f"the server {url} has no such model or path ({reason}): check --model, and --base-url, which ends in /v1")
        if status in _AGAIN:
            return ModelError(f"the server {url} cannot answer now ({status}: {reason}): try again later")
        if status:
            return ModelError(f"the server {url} refused the request ({status}: {reason}): change it, or choose another model")
        if isinstance(error, TooLong):
            return ModelError(
                f"the server {url} sent an answer of more than {LONGEST_ANSWER >> 20} MB: check --base-url, or ask less at once"
            )
        if isinstance(error, MalformedStream):
            return ModelError(f"the server {url} sent {reason}: check --base-url, or ask again")
        return ModelError(f"the server {url} broke off its reply ({reason}): what had come is kept; ask again")


class Stream:
    """The events of one streamed answer. Iterate once; `attempts` and `dropped` say what it took."""

    def __init__(self, server: Server, path: str, body: dict[str, Any], cancel: threading.Event | None) -> None:
        self.attempts = 0
        self.dropped: list[str] = []
        """Parameters that the server refused, and that were left out."""
        self._server, self._path, self._body, self._cancel = server, path, dict(body), cancel
        self._inbox: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        self._heard = self._over = False
        self._request: Any = None
        server._loop.call_soon_threadsafe(self._prepare)  # while the caller still has to wait for its log

    def _prepare(self) -> None:
        with contextlib.suppress(Exception):  # what cannot be made is said when it is to be sent
            self._request = self._server.request_for(self._path, self._body)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events as they come; ends early, and quietly, when cancelled. Raises ModelError; what came before it was yielded."""
        work = asyncio.run_coroutine_threadsafe(self._work(), self._server._loop)
        try:
            while not self.cancelled:
                if (event := self._inbox.get()) is None:
                    return
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            if not self._over:
                work.cancel()  # closes the socket wherever the exchange is

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the rest."""
        return self._cancel is not None and self._cancel.is_set()

    def leave(self) -> None:
        """Wake the caller, who may be waiting for the next event."""
        self._inbox.put(None)

    async def _work(self) -> None:
        with self._server.watched(self):
            await self._try()

    async def _try(self) -> None:
        while True:
            try:
                self.attempts += 1
                await self._once()
                return
            except Exception as error:
                if self._over:  # all was said: what goes wrong with the connection now is nobody's loss
                    return
                if not self._heard and self._simplified(error):
                    self.attempts -= 1
                    continue
                if self._heard or self.attempts > self._server.retries or not _worth_another(error):
                    self._inbox.put(self._server.translated(error))
                    return
                await asyncio.sleep(self._server._pause_before(self.attempts - 1, error))

    async def _once(self) -> None:
        ended = False
        request, self._request = self._request or self._server.request_for(self._path, self._body), None  # the next try may be another
        async with self._server.streamed(request) as pieces:
            async for event in events(pieces):
                self._heard = self._heard or _says_something(event)
                ended = ended or _ends(event)
                self._inbox.put(event)
            if not ended:
                raise ConnectionError("it ended before the reply did")
            self._over = True
            self._inbox.put(None)
            await _read_out(pieces)

    def _simplified(self, error: Exception) -> bool:
        """Whether the server complained of a parameter that can be done without; it is left out of the next try."""
        if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 422, 500, 501):
            return False
        complaint = f"{error.message} {error.body}"
        groups = (("stream_options",), ("top_logprobs",), ("logprobs", "top_logprobs"), ("seed",), OPTIONAL)
        for group in groups:
            present = [name for name in group if name in self._body]
            if present and any(name in complaint for name in group):
                for name in present:
                    del self._body[name]
                self.dropped += present
                return True
        return False


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    """`body` as the client's `create` wants it: what it insists on, and the whole as it is, which it does not look through."""
    required: dict[str, Any] = {"messages": []} if "messages" in body else {"prompt": ""}
    return {"model": body["model"], **required, "extra_body": body}


async def _read_out(pieces: AsyncIterator[bytes]) -> None:
    """Wait a moment for the end of an answer that has said everything: only then can its connection be used again."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            for _ in range(_END_PIECES):
                if await anext(pieces, None) is None:
                    return


def _says_something(event: dict[str, Any]) -> bool:
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    return bool(choice.get("text") or (isinstance(delta, dict) and delta.get("content")))


def _ends(event: dict[str, Any]) -> bool:
    choices = event.get("choices")
    return "error" in event or (
        isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict) and bool(choices[0].get("finish_reason"))
    )


def _worth_another(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _AGAIN
    return not isinstance(error, TooLong) and not _caused_by(error, ssl.SSLError)


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind) or (kind is ssl.SSLError and "CERTIFICATE" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _deepest(error: BaseException) -> BaseException:
    while (below := error.__cause__) is not None:
        error = below
    return error


def _reason(error: Exception) -> str:
    """What the server or the system says, in one short line."""
    deepest = _deepest(error)
    text = str(deepest if isinstance(error, openai.APIConnectionError) else getattr(error, "message", None) or error)
    return " ".join(text.split())[:_MESSAGE] or type(deepest).__name__
