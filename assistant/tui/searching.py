"""What is typed into the audit browser's box: words to be found, and `name:value` terms that narrow the list.

`refund verdict:block since:7d lang:zh model:NAME category:weapons finish:stopped conv:ID reviewed:no until:2026-01-31`. Values may be
written as the interface says them (verdict:拦截), and the colon may be a Chinese one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from assistant.audit.moments import microseconds
from assistant.errors import UsageError
from assistant.tui.backend import LedgerLike
from assistant.tui.sanitize import one_line
from assistant.tui.text import say

if TYPE_CHECKING:
    from assistant.store.listing import Filters

_TERM = re.compile(r'(?<!\S)([a-z]+)[:：](?:"([^"]*)"|(\S*))')
_FIELDS = {
    "verdict": "verdict", "category": "category", "model": "model", "lang": "language", "finish": "finish", "conv": "conversation",
    "since": "since", "until": "until", "reviewed": "reviewed",
}  # fmt: skip
_VERDICTS = ("allow", "caution", "redact", "block")
_FINISHES = ("stop", "length", "stopped", "blocked_prompt", "blocked_output", "error", "interrupted")


def _filters(values: dict[str, Any]) -> Filters:
    return cast("Filters", values)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be listed: turns that hold `words` (all of them where that is empty) and pass the filters of the ledger."""

    words: str = ""
    filters: Filters = field(default_factory=lambda: _filters({}))


def parse(text: str) -> Question:
    """The question in `text`. A name without a value narrows nothing yet. Raises UsageError for a value that cannot be."""
    filters: dict[str, Any] = {}

    def take(match: re.Match[str]) -> str:
        name, value = match[1], match[2] if match[2] is not None else match[3]
        if name not in _FIELDS:
            return match[0]
        if value:
            filters[_FIELDS[name]] = _value(name, value)
        return " "

    words = " ".join(_TERM.sub(take, text).split())
    return Question(words, _filters(filters))


def usual_filters(name: str) -> Filters:
    """What the filter key's `name` means: `all`, `queue` (flagged and not judged yet), or a verdict."""
    usual: dict[str, dict[str, Any]] = {"all": {}, "queue": {"verdict": "flagged", "reviewed": False}}
    return _filters(usual.get(name, {"verdict": name}))


def read_page(ledger: LedgerLike, question: Question, limit: int, before: int | None = None) -> list[Any]:
    """One page of rows or hits, newest first, after the record `before`. Blocks; raises UsageError or LedgerError."""
    if question.words:
        return list(ledger.search(question.words, limit=limit, before=before, **question.filters))
    return list(ledger.list_turns(before=before, limit=limit, **question.filters))


def every_turn(ledger: LedgerLike, question: Question, page: int = 500) -> Iterator[str]:
    """The ids of all turns that answer the question, newest first, however many; read page by page."""
    before: int | None = None
    while rows := read_page(ledger, question, page, before):
        yield from (row.turn for row in rows)
        before = rows[-1].seq


def _value(name: str, value: str) -> Any:
    if name in ("since", "until"):
        try:
            return microseconds(value)
        except ValueError:
            raise _wrong(name, value, "2026-01-31, 7d, 12h, 30min") from None
    if name == "verdict":
        known = {say(f"action.{one}"): one for one in _VERDICTS} | {say("audit.filter_flagged"): "flagged"}
        return _one_of(name, value, known)
    if name == "finish":
        return _one_of(name, value, {say(f"finish.{one}"): one for one in _FINISHES})
    if name == "lang":
        return _one_of(name, value, {"中文": "zh", "English": "en"})
    if name == "reviewed":
        return _one_of(name, value, {"是": "yes", "否": "no"}) == "yes"
    return value


def _one_of(name: str, value: str, known: dict[str, str]) -> str:
    """The value itself, or the one that the interface calls so."""
    if value in known.values():
        return value
    if value not in known:
        raise _wrong(name, value, ", ".join(known.values()))
    return known[value]


def _wrong(name: str, value: str, choices: str) -> UsageError:
    return UsageError(say("audit.wrong_term", name=name, value=one_line(value, 30), choices=choices))
