"""Tokens as a person reads them. A byte-level tokenizer may cut one Chinese character into three tokens: here they
are one again.

Pure text. A `Unit` remembers which tokens it stands for, so that their scores can be added up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["token", "word", "sentence", "turn"]
LEVELS: tuple[Level, ...] = ("token", "word", "sentence", "turn")

_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SENTENCE_END = re.compile(r"[.!?。！？；;…\n]\s*$")


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring tokens shown as one."""

    text: str
    indices: tuple[int, ...]
    role: str = ""

    def total(self, scores: Sequence[float]) -> float:
        """The summed score of its tokens."""
        return sum(scores[i] for i in self.indices)


def units(texts: Sequence[str], roles: Sequence[str] = (), level: Level = "token") -> list[Unit]:
    """`texts` joined into readable units; a unit never crosses from one role into another."""
    pieces = _characters(texts, roles)
    if level == "token":
        return pieces
    same: dict[str, Callable[[Unit, Unit], bool]] = {
        "word": _same_word, "sentence": _same_sentence, "turn": lambda a, b: True,
    }  # fmt: skip
    out: list[Unit] = []
    for piece in pieces:
        joins = out and out[-1].role == piece.role and piece.role != "format" and same[level](out[-1], piece)
        out[-1:] = [_join(out[-1], piece)] if joins else [*out[-1:], piece]
    return out


def _characters(texts: Sequence[str], roles: Sequence[str]) -> list[Unit]:
    """One unit per token, but the pieces of one character together.

    A piece either has no text of its own (the last one brings the whole character) or shows as U+FFFD.
    """
    out: list[Unit] = []
    pending: list[int] = []
    for index, text in enumerate(texts):
        role = roles[index] if roles else ""
        if pending and roles and roles[pending[-1]] != role:
            out.append(Unit("\ufffd", tuple(pending), roles[pending[-1]]))
            pending = []
        if not text:
            pending.append(index)
            continue
        broken = text.strip("\ufffd") == ""
        if broken and out and out[-1].role == role and not pending and out[-1].text == "\ufffd":
            out[-1] = Unit("\ufffd", (*out[-1].indices, index), role)
            continue
        out.append(Unit("\ufffd" if broken else text, (*pending, index), role))
        pending = []
    if pending:
        out.append(Unit("\ufffd", tuple(pending), roles[pending[-1]] if roles else ""))
    return out


def _same_word(before: Unit, after: Unit) -> bool:
    left, right = before.text[-1:], after.text[:1]
    both = left.isalnum() and right.isalnum()
    return both and not _HAN.match(left) and not _HAN.match(right)


def _same_sentence(before: Unit, after: Unit) -> bool:
    return not _SENTENCE_END.search(before.text)


def _join(before: Unit, after: Unit) -> Unit:
    return Unit(before.text + after.text, before.indices + after.indices, before.role)
