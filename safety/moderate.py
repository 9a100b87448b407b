"""The output side: a reply is judged while it grows, and nothing of it is released before it was judged.

The text is judged at checkpoints: at the end of a sentence, or after `STRIDE` characters. Where they lie depends on
the text alone, not on how it arrives, so a streamed reply and the same reply in one piece have the same verdict.
After every checkpoint all but a small tail is released; the tail is longer while an address, a number, a key or a
link may still be unfinished.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

from safety import texts
from safety.judge import combine, hidden_by, judge
from safety.language import detect
from safety.leak import LeakDetector
from safety.normalize import base_view
from safety.pii import Span
from safety.policy import Policy
from safety.redact import Vault, redact
from safety.scan import Look, Scanner
from safety.verdict import Action, Finding, Verdict

STRIDE, SHORTEST = 96, 32
READ_EVERY = 256
"""Bytes of new text after which the encoder reads the end of the reply even where nothing looks suspicious."""
WINDOW = 800
TAIL = 16
_ASKED = 400  # characters of the prompt, more than the tokens that a reply is read with
_SENTENCE = re.compile(r"[.!?;:\n。!?;!?;…]")
_KEY_START, _KEY_END = "-----BEGIN", re.compile(r"-----END [A-Z ]{0,40}-----")
_OPEN = re.compile(  # what may still grow into something that is hidden, at the end of the text
    r"(?:[(+]?\d[\d()+-]*(?:[ \t-][\d()+-]+){0,12}[ \t-]?"
    r"|[A-Z]{2}\d{2}(?: [0-9A-Z]{1,4}){0,8} ?"
    r"|!?\[[^\]\n]{0,200}(?:\](?:\([^)\s]{0,2000})?)?"
    r"|<[A-Za-z][^>\n]{0,400}"
    r"|(?i:live at|address is|address:) [^\n.]{0,80}"
    r"|(?:家住|住在|住址|地址)[^\s,。,]{0,48}"
    r")\Z"
)
_REACH = 420
_LONGEST = 16_000  # no key or address is longer than this


@dataclass(frozen=True, slots=True)
class Release:
    """What a step of moderation gives back."""

    text: str
    """Characters newly cleared for showing, with parts hidden where the policy says so."""
    verdict: Verdict
    """About everything checked so far; the same object while nothing changed."""


class Moderator:
    """Judges one growing reply. Once it is blocked, nothing more is taken in or released."""

    def __init__(
        self,
        scanner: Scanner,
        policy: Policy,
        stamp: str,
        prompt: str = "",
        language: str | None = None,
        system: str = "",
    ) -> None:
        self._scanner, self._policy, self._stamp = scanner, policy, stamp
        self._prompt, self._language = prompt, language
        self._asked = base_view(prompt[:_ASKED]).text
        self._leaks = LeakDetector(system)
        self._text = ""
        self._checked = 0  # the last checkpoint
        self._released = 0
        self._unread = 0  # bytes since the encoder last read: a Chinese character says as much as three Latin ones
        self._spans: list[Span] = []  # what is hidden in the text so far
        self._look = Look((), (), {}, {})
        self._vault = Vault()
        self._seconds = 0.0
        self._verdict = self._judge(None)
        self._finished = False

    def feed(self, text: str) -> Release:
        """Take in the next characters of the reply."""
        if self._finished or self._verdict.action is Action.BLOCK:
            return Release("", self._verdict)
        return self._timed(lambda: self._advance(text))

    def finish(self) -> Release:
        """The end of the reply: releases what was held back. Calling it again changes nothing."""
        if self._finished:
            return Release("", self._verdict)
        released = self._timed(self._close).text
        self._verdict = replace(self._verdict, milliseconds=self._seconds * 1000)
        return Release(released, self._verdict)

    def _timed(self, step: Callable[[], str]) -> Release:
        started = time.perf_counter()
        released = step()
        self._seconds += time.perf_counter() - started
        return Release(released, self._verdict)

    def _advance(self, text: str) -> str:
        self._text += text
        out = []
        while self._verdict.action is not Action.BLOCK and (end := self._next_checkpoint()) is not None:
            out.append(self._check(end))
        return "".join(out)

    def _close(self) -> str:
        out = ""
        if self._verdict.action is not Action.BLOCK and (self._checked < len(self._text) or self._released < len(self._text)):
            out = self._check(len(self._text), last=True)
        self._finished = True
        seen = self._text[: self._checked]
        hidden = redact(seen, self._spans, self._vault) if self._verdict.action is Action.REDACT else None
        self._verdict = replace(self._verdict, redacted=hidden)
        return out

    def _next_checkpoint(self) -> int | None:
        """Where the text is to be judged next, if it is long enough already."""
        start = self._checked
        if len(self._text) > self._policy.max_characters:
            return len(self._text)
        stop = _SENTENCE.search(self._text, start + SHORTEST, start + STRIDE)
        if stop is not None:
            return stop.end()
        return start + STRIDE if len(self._text) >= start + STRIDE else None

    def _check(self, end: int, last: bool = False) -> str:
        """Judge the text up to `end`; release what can be."""
        self._unread += len(self._text[self._checked : end].encode("utf-8", "replace"))
        self._checked = end
        if end > self._policy.max_characters:
            self._verdict = too_long(self._policy, self._stamp, "response", self._text, self._language)
            return ""
        start = min(self._released, max(0, end - WINDOW))
        due = last or self._unread >= READ_EVERY
        window = self._scanner.look(self._text[start:end], "response", prompt=self._asked, quick=not due, tail=True)
        self._unread = 0 if due else self._unread
        leaks = self._leaks.find(self._text[start:end])
        seen = sorted([s for s in window.spans if not _within(s, leaks)] + leaks, key=lambda s: s.start)
        fresh = [
            span
            for span in (Span(s.kind, s.start + start, s.end + start) for s in seen)
            if span.start >= self._released and not self._own(span)
        ]
        shifted = Look(
            tuple(replace(f, start=f.start + start, end=f.end + start) for f in window.findings),
            tuple(fresh),
            window.scores,
            {label: (a + start, b + start) for label, (a, b) in window.places.items()},
        )
        cut = end if last else self._safe_cut(end)
        hide = hidden_by(self._policy, "response", fresh)
        for span in hide:
            if span.start < cut < span.end:
                cut = span.start
        sure = replace(shifted, spans=tuple(span for span in fresh if span.end <= cut))
        self._look = combine([self._look, sure])
        self._update()
        if self._verdict.action is Action.BLOCK:
            return ""
        done = [Span(s.kind, s.start - self._released, s.end - self._released) for s in hide if s.end <= cut]
        self._spans += [span for span in hide if span.end <= cut]
        text = redact(self._text[self._released : cut], done, self._vault)
        self._released = max(self._released, cut)
        return text

    def _update(self) -> None:
        verdict = self._judge(None)
        if verdict != self._verdict:
            self._verdict = verdict

    def _judge(self, redacted: str | None) -> Verdict:
        return judge(self._look, self._policy, self._stamp, "response", self._text or self._prompt, self._language, redacted)

    def _own(self, span: Span) -> bool:
        """What the person wrote in the prompt may be said back to them."""
        return span.kind not in ("link", "hidden", "leak") and self._text[span.start : span.end] in self._prompt

    def _safe_cut(self, end: int) -> int:
        """How far the text can be shown: everything but the tail and what may be unfinished at its end."""
        cut = max(self._released, end - TAIL)
        key = self._text.find(_KEY_START, self._released, end)
        if key >= 0 and not _KEY_END.search(self._text, key, end):
            return max(self._released, min(cut, key))
        before = self._text[max(self._released, end - _REACH) : end]
        unfinished = _OPEN.search(before)
        opening = unfinished.start() if unfinished else len(before)
        opening = min(opening, self._leaks.open_from(before))
        return max(self._released, min(cut, end - len(before) + opening, self._word_start(end)))

    def _word_start(self, end: int) -> int:
        """Where the unbroken run of printable ASCII that ends at `end` begins: an address, a number or a key may be
        growing."""
        start = end
        while start > max(self._released, end - _LONGEST) and "!" <= self._text[start - 1] <= "~":
            start -= 1
        return start if start > end - _LONGEST else end


def _within(span: Span, others: list[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)


def too_long(policy: Policy, stamp: str, role: str, text: str, language: str | None) -> Verdict:
    """The verdict about a text that is longer than can be checked: it does not pass."""
    return Verdict(
        Action.BLOCK,
        1.0,
        MappingProxyType({"control": 1.0}),
        (Finding("control", "length", policy.max_characters, len(text), 1.0),),
        texts.too_long(policy.max_characters, language or detect(text)),
        stamp,
    )
