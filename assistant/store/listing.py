"""Pages of turns, newest first, under filters. A page ends with a record number, and the next page begins below it:
no offset is ever counted, and turns added meanwhile shift nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

from assistant.errors import UsageError
from assistant.store import canonical
from assistant.store.canonical import unmicro
from assistant.store.content import PROMPT, REPLY
from assistant.store.reading import excerpt

_EXCERPT = 200
FLAGGED = ("caution", "redact", "block")
"""The verdicts that are not simply allow."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which turns are meant. Every field narrows; None does not."""

    since: int | None = None
    """Ended at this time or later, in microseconds since 1970."""
    until: int | None = None
    """Ended before this time."""
    verdict: str | None = None
    """allow, caution, redact, block; `flagged` means all but allow."""
    category: str | None = None
    model: str | None = None
    language: str | None = None
    conversation: str | None = None
    finish: str | None = None
    reviewed: bool | None = None

    def where(self) -> tuple[str, list[Any]]:
        """The SQL condition on `ledger` rows that end a turn (or are open) and its values."""
        # + keeps SQLite from collecting all turns by their kind only to sort them: it walks the records, or another index, in order
        terms = ["(+kind IN ('output', 'interrupted') OR (+kind = 'intent' AND turn IN (SELECT turn FROM opened)))"]
        values: list[Any] = []
        for term, value in (
            ("ts >= ?", self.since), ("ts < ?", self.until), ("category = ?", self.category), ("model = ?", self.model),
            ("lang = ?", self.language), ("conv = ?", self.conversation), ("finish = ?", self.finish),
        ):  # fmt: skip
            if value is not None:
                terms.append(term)
                values.append(value)
        if self.verdict == "flagged":
            terms.append(f"verdict IN {FLAGGED}")
        elif self.verdict is not None:
            if self.verdict not in ("allow", "caution", "redact", "block"):
                raise UsageError(f"verdict must be allow, caution, redact, block or flagged, not {self.verdict!r}")
            terms.append("verdict = ?")
            values.append(self.verdict)
        if self.reviewed is not None:
            if self.reviewed:  # they are few: begin with them
                terms.append("turn IN (SELECT r.turn FROM ledger r WHERE r.kind = 'review')")
            else:
                terms.append("NOT EXISTS (SELECT 1 FROM ledger r WHERE r.turn = ledger.turn AND r.kind = 'review')")
        return " AND ".join(terms), values

    @property
    def is_empty(self) -> bool:
        """Whether every turn is meant."""
        return all(getattr(self, f.name) is None for f in fields(self))


class Filters(TypedDict, total=False):
    """The fields of `Filter` as keyword arguments."""

    since: int | None
    until: int | None
    verdict: str | None
    category: str | None
    model: str | None
    language: str | None
    conversation: str | None
    finish: str | None
    reviewed: bool | None


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One line of the list of turns."""

    seq: int
    """Pass it as `before` to get what follows."""
    turn: str
    conversation: str
    parent: str | None
    created_us: int
    prompt: str
    reply: str
    """The beginnings of the texts, on one line each; empty when erased."""
    finish: str
    verdict: str
    category: str
    score: float
    model: str
    language: str
    prompt_tokens: int
    reply_tokens: int
    reviewed: bool
    erased: bool
    state: Literal["closed", "open"] = "closed"
    """`open`: still being written, or cut off and not yet recovered."""


def read_rows(connection: sqlite3.Connection, which: Filter, before: int | None, limit: int) -> list[TurnRow]:
    """One page of turns."""
    rows: list[tuple[int, str]] = []
    # each verdict has its own stretch of the index, already in order: three short reads instead of a long sort
    for one in (replace(which, verdict=v) for v in FLAGGED) if which.verdict == "flagged" else (which,):
        where, values = one.where()
        if before is not None:
            where += " AND seq < ?"
            values.append(before)
        sql = f"SELECT seq, record FROM ledger WHERE {where} ORDER BY seq DESC LIMIT ?"
        rows += connection.execute(sql, (*values, limit)).fetchall()
    return [row_of(connection, seq, text) for seq, text in sorted(rows, reverse=True)[:limit]]


def row_of(connection: sqlite3.Connection, seq: int, text: str) -> TurnRow:
    """The line for the record `seq` that ends (or opened) a turn."""
    record = canonical.loads(text)
    opened, created = seq, record.get("created", 0)
    closed = record["kind"] != "intent"
    if closed:
        found = connection.execute(
            "SELECT seq, record ->> '$.created' FROM ledger WHERE turn = ? AND kind = 'intent'", (record["turn"],)
        ).fetchone()
        opened, created = found or (0, record["ts"])
    reviewed = connection.execute("SELECT 1 FROM ledger WHERE turn = ? AND kind = 'review'", (record["turn"],)).fetchone()
    erased = connection.execute("SELECT 1 FROM erased WHERE seq IN (?, ?)", (opened, seq)).fetchone()
    usage = record.get("usage", {})
    asked = record.get("filter", {})
    return TurnRow(
        seq=seq, turn=record["turn"], conversation=record["conv"], parent=record.get("parent"), created_us=created,
        prompt=excerpt(connection, opened, PROMPT, _EXCERPT), reply=excerpt(connection, seq, REPLY, _EXCERPT),
        finish=record.get("finish", "interrupted"), verdict=record.get("verdict", asked.get("action", "")),
        category=record.get("category", ""), score=unmicro(record.get("score", asked.get("score", 0))),
        model=record["model"], language=record["lang"], prompt_tokens=usage.get("prompt_tokens", 0),
        reply_tokens=usage.get("reply_tokens", 0), reviewed=reviewed is not None, erased=erased is not None,
        state="closed" if closed else "open",
    )  # fmt: skip
