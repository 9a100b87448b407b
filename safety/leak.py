"""Passages of the system prompt in a reply. A canary is a word that stands in the system prompt and nowhere else:
seeing it is proof."""

from __future__ import annotations

import re
import secrets as randomness

from safety.language import detect
from safety.pii import Span

_TOKEN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3400-\u4dbf\u4e00-\u9fff]+")
_CANARY = re.compile(r"canary-[0-9a-f]{16}")
_ENOUGH = {"en": 8, "zh": 14}  # so many words, or Chinese characters, in the same order are no accident
_SUSPECT = 3


def new_canary() -> str:
    """A word to put into a system prompt."""
    return f"canary-{randomness.token_hex(8)}"


class LeakDetector:
    """Knows one system prompt and finds it in texts. Without a system prompt it finds nothing."""

    def __init__(self, system: str = "") -> None:
        self._canaries = _CANARY.findall(system)
        self._size = _ENOUGH[detect(system)]
        words = [match[0].lower() for match in _TOKEN.finditer(system)]
        self._runs = {tuple(words[i : i + self._size]) for i in range(len(words) - self._size + 1)}
        self._starts = {tuple(words[i : i + _SUSPECT]) for i in range(len(words) - _SUSPECT + 1)} if self._runs else set()

    def find(self, text: str) -> list[Span]:
        """The passages of `text` that stand in the system prompt, left to right."""
        found = [Span("leak", text.find(c), text.find(c) + len(c)) for c in self._canaries if c in text]
        if self._runs:
            tokens = list(_TOKEN.finditer(text))
            words = [token[0].lower() for token in tokens]
            start, end = -1, -1
            for i in range(len(words) - self._size + 1):
                if tuple(words[i : i + self._size]) in self._runs:
                    first, last = tokens[i].start(), tokens[i + self._size - 1].end()
                    if first <= end:
                        end = last
                        continue
                    found += [Span("leak", start, end)] if start >= 0 else []
                    start, end = first, last
            found += [Span("leak", start, end)] if start >= 0 else []
        return sorted((s for s in found if not _inside(s, found)), key=lambda span: span.start)

    def open_from(self, text: str) -> int:
        """Where the end of `text` begins to look like the system prompt; its length when it does not."""
        if not self._starts:
            return len(text)
        tokens = list(_TOKEN.finditer(text))[-self._size - 1 :]
        words = [token[0].lower() for token in tokens]
        for i in range(len(words)):
            rest = [tuple(words[k : k + _SUSPECT]) for k in range(i, len(words) - _SUSPECT + 1)]
            if (rest or len(words) - i < _SUSPECT) and all(run in self._starts for run in rest):
                return tokens[i].start()
        return len(text)


def _inside(span: Span, others: list[Span]) -> bool:
    return any(o != span and o.start <= span.start and span.end <= o.end for o in others)
