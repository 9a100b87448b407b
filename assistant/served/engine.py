"""A served model as the engine: the same words go in and the same tokens come out as with `assistant.lm`, so the pipeline cannot tell.

What a server does not tell is not made up: token ids are −1, missing log-probabilities NaN, energy unknown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from assistant.errors import ModelError, UsageError
from assistant.lm import catalog
from assistant.served import address
from assistant.served.exchange import Server
from assistant.served.replies import Reader
from assistant.turn import SERVED, Finish, Message, ModelInfo, ReplyToken, Sampling, Usage

CANDIDATES = 5
CHAT: Final = "/chat/completions"
COMPLETION: Final = "/completions"


@dataclass(frozen=True, slots=True)
class ServedPrompt:
    """A conversation as a server is given it, or a text to be continued."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    dropped_turns: int = 0
    dropped_tokens: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """None: the server cuts the text into tokens."""
        return ()


class ServedEngine:
    """The model of a server that speaks the OpenAI protocol. Safe to use from many threads at once."""

    concurrent = True
    languages: tuple[str, ...] = ()

    def __init__(self, server: Server, model: str, context_length: int) -> None:
        self.server = server
        self.info = ModelInfo(model, "", SERVED, server.url)
        self.context_length = self.context_asked = context_length

    @classmethod
    def connect(
        cls,
        url: str,
        model: str,
        *,
        timeout: float,
        retries: int,
        context_length: int,
        progress: Callable[[str, float | None], None] = lambda what, fraction: None,
    ) -> ServedEngine:
        """Find the server and the model on it; an empty name takes the only one there. Raises ModelError or UsageError."""
        if not url:
            raise UsageError("a served model needs the address of its server: give --base-url like http://127.0.0.1:8000/v1")
        url = address.checked(url)
        progress(f"asking {url} for its models", None)
        server = Server(url, address.key_for(url), timeout=timeout, retries=retries)
        try:
            found = {row["id"]: row for row in _models(server, model) if isinstance(row.get("id"), str)}
            if not model or (model == catalog.DEFAULT and found and model not in found):  # nobody named one
                if len(found) != 1:
                    names = ", ".join(sorted(found)[:10]) or "none that it lists"
                    raise UsageError(f"say which model of {url} to use with --model: {names}")
                model = next(iter(found))
            if found and model not in found:
                raise ModelError(f"the server {url} has no model {model}: choose {', '.join(sorted(found)[:10])}")
        except BaseException:
            server.close()
            raise
        longest = found.get(model, {}).get("max_model_len")
        return cls(server, model, min(context_length, longest) if isinstance(longest, int) and longest > 0 else context_length)

    def render(self, messages: Sequence[Message], *, reserve: int) -> ServedPrompt:
        """The conversation; the server lays it out and refuses what is too long for its model."""
        return ServedPrompt(tuple(messages))

    def render_raw(self, text: str) -> ServedPrompt:
        """A text to be continued. Raises UsageError when there is none."""
        if not text:
            raise UsageError("there is nothing to continue: give some text")
        return ServedPrompt(text=text)

    def generate(self, prompt: ServedPrompt, sampling: Sampling, *, cancel: threading.Event | None = None) -> ServedGeneration:
        """A reply in the making; iterate over it."""
        body: dict[str, Any] = {
            "model": self.info.name, "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if sampling.seed is not None:
            body["seed"] = sampling.seed % 2**31  # servers read it as a C int
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        body |= {"min_p": sampling.min_p} if sampling.min_p else {}
        if sampling.repetition_penalty != 1:  # the two names it has
            body |= {"repetition_penalty": sampling.repetition_penalty, "repeat_penalty": sampling.repetition_penalty}
        if prompt.text:
            path, body = COMPLETION, {**body, "prompt": prompt.text, "logprobs": CANDIDATES}
        else:
            messages = [{"role": m.role, "content": m.text} for m in prompt.messages]
            path, body = CHAT, {**body, "messages": messages, "logprobs": True, "top_logprobs": CANDIDATES}
        return ServedGeneration(self.server, path, body, cancel)


class ServedGeneration:
    """One reply from a server: iterate over its tokens; `finish` and `usage` tell the rest."""

    def __init__(self, server: Server, path: str, body: dict[str, Any], cancel: threading.Event | None) -> None:
        self._server, self._body, self._cancel = server, body, cancel
        self._stream = server.stream(path, body, cancel)
        self._reader = Reader()
        self._most = int(body["max_tokens"])
        self._first = self._last = 0.0
        self._began = time.perf_counter()

    @property
    def prompt_tokens(self) -> int:
        """0 until the server has said it, at the end."""
        return self._reader.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """As the server says."""
        return self._reader.cached_tokens

    @property
    def finish(self) -> Finish:
        """How it ended; `stopped` while it has not."""
        return self._reader.finish or "stopped"

    @property
    def _limit(self) -> int:
        """How many pieces are taken: one more than a server may send that keeps to `max_tokens`. Without log-probabilities a piece may
        be a part of a token."""
        return self._most + 1 if self._reader.with_logprobs else 2 * self._most + 1

    @property
    def usage(self) -> Usage:
        """What it took so far, what the server said of itself, and which parameters it was sent."""
        reader, stream = self._reader, self._stream
        sent = sorted(name for name in self._body if name not in ("model", "messages", "prompt", "stream_options", *stream.dropped))
        served = {
            "server": self._server.url, "attempts": str(max(stream.attempts, 1)), "parameters": " ".join(sent),
            "seed": str(self._body.get("seed", "")), "logprobs": "yes" if reader.with_logprobs else "no",
            "refused": " ".join(stream.dropped), **reader.said,
        }  # fmt: skip
        return Usage(
            reader.prompt_tokens, reader.cached_tokens, reader.reply_tokens,
            prefill_seconds=round(self._first, 6), decode_seconds=round(max(self._last - self._first, 0.0), 6),
            served={name: value for name, value in served.items() if value},
        )  # fmt: skip

    def __iter__(self) -> Iterator[ReplyToken]:
        """The tokens as they come. Raises ModelError; what was yielded before it counts."""
        self._began = time.perf_counter()
        for event in self._stream:
            try:
                for token in self._reader.read(event):
                    self._last = time.perf_counter() - self._began
                    self._first = self._first or self._last
                    yield token
                    if self._reader.count >= self._limit:  # it was told to stop before; the socket is closed
                        self._reader.overrun()
                        return
            except ValueError as error:
                raise self._server.translated(error) from error


def _models(server: Server, model: str) -> list[dict[str, Any]]:
    """What the server lists; nothing where it has no list and a model was named."""
    try:
        return _rows(server.request("/models"))
    except ModelError as error:
        if model and getattr(error.__cause__, "status_code", 0) in (404, 405, 500, 501):
            return []
        raise


def _rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    rows = answer.get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
