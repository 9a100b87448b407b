"""What a server streams, as reply tokens. Everything in it is untrusted: types are checked, texts cleaned, nothing is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from assistant.language import clean_intake
from assistant.turn import Candidate, Finish, ReplyToken

NO_ID = -1
"""The id of a token that a server cut: it tells texts, not numbers."""
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "content_filter": "stop", "eos_token": "stop"}


class Reader:
    """Turns the events of one reply into tokens; `finish`, `prompt_tokens`, `said` tell the rest."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.count = 0
        self.prompt_tokens = self.cached_tokens = self._counted = 0
        self.with_logprobs = False
        self.said: dict[str, str] = {}
        """What the server says of itself: `model`, `fingerprint`, and a `finish_reason` that is none of ours."""

    def read(self, event: dict[str, Any]) -> Iterator[ReplyToken]:
        """The tokens of one event, often one. Raises ValueError for an event that reports an error, with what it says."""
        if "error" in event:
            error = event["error"]
            raise ValueError(str(error.get("message", error) if isinstance(error, dict) else error))
        for name, field in (("model", "model"), ("fingerprint", "system_fingerprint")):
            if isinstance(event.get(field), str):
                self.said[name] = clean_intake(event[field])[:200]
        self._count_usage(event.get("usage"))
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        delta = choice.get("delta")
        text = choice.get("text") if "text" in choice else delta.get("content") if isinstance(delta, dict) else None
        yield from self._tokens(text if isinstance(text, str) else "", choice.get("logprobs"))
        if isinstance(reason := choice.get("finish_reason"), str):
            self.finish = _FINISH.get(reason, "stop")
            if reason not in ("stop", "length"):
                self.said["finish_reason"] = clean_intake(reason)[:50]

    def overrun(self) -> None:
        """The server wrote more than it was asked for: the reply is cut, and the log says why."""
        self.finish = "length"
        self.said["max_tokens"] = "not kept"

    @property
    def reply_tokens(self) -> int:
        """As the server counted them, or the pieces that came."""
        return self._counted or self.count

    def _count_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        details = usage.get("prompt_tokens_details")
        self.prompt_tokens, self._counted = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        self.cached_tokens = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0

    def _tokens(self, text: str, logprobs: Any) -> Iterator[ReplyToken]:
        entries = list(_entries(logprobs))
        if not entries:
            if text:
                yield self._token(text, math.nan, ())
            return
        self.with_logprobs = True
        whole = "".join(entry[0] for entry in entries) == text
        for i, (token, logprob, candidates) in enumerate(entries):
            # where the server cut a character into several tokens, its text comes with the last of them
            yield self._token(token if whole else text if i == len(entries) - 1 else "", logprob, candidates)

    def _token(self, text: str, logprob: float, candidates: tuple[Candidate, ...]) -> ReplyToken:
        self.count += 1
        return ReplyToken(self.count - 1, NO_ID, clean_intake(text), logprob, entropy(candidates), candidates)


def entropy(candidates: tuple[Candidate, ...]) -> float:
    """A lower bound, in nats: the candidates as told, everything else as one more. NaN without candidates."""
    if not candidates:
        return math.nan
    known = [math.exp(c.logprob) for c in candidates]
    parts = [p for p in (*known, 1 - sum(known)) if p > 0]
    return -sum(p * math.log(p) for p in parts) + 0.0


def _entries(logprobs: Any) -> Iterator[tuple[str, float, tuple[Candidate, ...]]]:
    """(text, log-probability, candidates) of each token, in the layout of chats or of completions."""
    if not isinstance(logprobs, dict):
        return
    content = logprobs.get("content")
    if isinstance(content, list):
        for entry in content:
            if isinstance(entry, dict) and (value := _logprob(entry.get("logprob"))) is not None:
                top = entry.get("top_logprobs")
                pairs = [(e.get("token"), e.get("logprob")) for e in top if isinstance(e, dict)] if isinstance(top, list) else []
                yield str(entry.get("token", "")), value, _candidates(pairs)
        return
    tokens, values, tops = logprobs.get("tokens"), logprobs.get("token_logprobs"), logprobs.get("top_logprobs")
    if isinstance(tokens, list) and isinstance(values, list) and len(tokens) == len(values):
        for i, (token, number) in enumerate(zip(tokens, values, strict=True)):
            if (value := _logprob(number)) is not None:
                top = tops[i] if isinstance(tops, list) and i < len(tops) else None
                yield str(token), value, _candidates(list(top.items()) if isinstance(top, dict) else [])


def _candidates(pairs: list[tuple[Any, Any]]) -> tuple[Candidate, ...]:
    found = [(text, value) for text, number in pairs[:20] if (value := _logprob(number)) is not None]
    return tuple(Candidate(NO_ID, clean_intake(str(text)), value) for text, value in found)


def _logprob(number: Any) -> float | None:
    """A log-probability; None for what is none. Servers round, so a little above 0 is 0, and −∞ is written as a large number."""
    if not isinstance(number, int | float) or isinstance(number, bool) or not -1e6 <= number <= 1e-3:
        return None
    return min(float(number), 0.0)


def _count(number: Any) -> int:
    return number if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 40 else 0
