"""Tables that only repeat what the records say, so that lists and figures need no scan. All can be rebuilt at any
time.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from assistant.store.canonical import Record
from assistant.store.records import CLOSING

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPENED = """INSERT INTO conversation (id, first_seq, last_seq, updated, turns, flagged) VALUES (?1, ?2, ?2, ?3, 1, 0)
ON CONFLICT (id) DO UPDATE SET last_seq = ?2, updated = ?3, turns = turns + 1"""
_CLOSED = "UPDATE conversation SET last_seq = ?2, updated = ?3, flagged = flagged + ?4 WHERE id = ?1"
_TITLED = "UPDATE conversation SET title_seq = ?2 WHERE id = ?1"
_COUNTED = """INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, verdict, category, lang, model, finish) DO UPDATE SET
  turns = turns + excluded.turns, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
  reply_tokens = reply_tokens + excluded.reply_tokens, us = us + excluded.us, uj = uj + excluded.uj"""

CountKey = tuple[str, str, str, str, str, str]
"""Day, verdict, category, language, model, finish."""


def apply(connection: sqlite3.Connection, record: Record) -> None:
    """Take one new record into the projections, inside the caller's transaction."""
    kind = record["kind"]
    if kind == "intent":
        connection.execute(_OPENED, (record["conv"], record["seq"], record["ts"]))
    elif kind in CLOSING:
        flagged = int(record["verdict"] != "allow")
        connection.execute(_CLOSED, (record["conv"], record["seq"], record["ts"], flagged))
        connection.execute(_COUNTED, (*_key(record), *_amounts(record)))
    elif kind == "title":
        connection.execute(_TITLED, (record["conv"], record["seq"]))


class Tally:
    """What the projections must hold, summed up in memory from all records in their order, or from a stretch of them."""

    def __init__(self) -> None:
        self.conversations: dict[str, list[int | None]] = {}
        """first_seq, last_seq, updated, turns, flagged, title_seq by conversation."""
        self.counts: defaultdict[CountKey, list[int]] = defaultdict(_nothing)
        """turns, prompt_tokens, reply_tokens, us, uj."""
        self._begun_before: dict[str, list[int | None]] = {}
        """The same rows, of what happened in conversations before this stretch saw them begin."""

    def add(self, record: Record) -> None:
        """Take in the next record."""
        kind = record["kind"]
        if kind == "intent":
            seq, ts, conversation = record["seq"], record["ts"], record["conv"]
            if (begun := self.conversations.get(conversation)) is None:
                self.conversations[conversation] = [seq, seq, ts, 1, 0, None]
            else:
                begun[1], begun[2], begun[3] = seq, ts, (begun[3] or 0) + 1
        elif kind in CLOSING:
            row = self._row(record["conv"])
            row[1], row[2] = record["seq"], record["ts"]
            row[4] = (row[4] or 0) + int(record["verdict"] != "allow")
            _sum_up(self.counts[_key(record)], _amounts(record))
        elif kind == "title":
            self._row(record["conv"])[5] = record["seq"]

    def follow(self, later: Tally) -> None:
        """Take in what the stretch of records after this one came to."""
        for id_, row in later._begun_before.items():
            _take_over(self._row(id_), row)
        for id_, row in later.conversations.items():
            if (mine := self.conversations.get(id_)) is not None:
                _take_over(mine, row)
            else:
                self.conversations[id_] = list(row)
        for key, amounts in later.counts.items():
            _sum_up(self.counts[key], amounts)

    def differences(self, connection: sqlite3.Connection) -> list[str]:
        """The names of the projections that hold something else."""
        stored: dict[str, list[int | None]] = {id_: row for id_, *row in connection.execute("SELECT * FROM conversation").fetchall()}
        counted = {tuple(row[:6]): list(row[6:]) for row in connection.execute("SELECT * FROM counts").fetchall()}
        return [name for name, a, b in (("conversation", stored, self.conversations), ("counts", counted, self.counts)) if a != b]

    def write(self, connection: sqlite3.Connection) -> None:
        """Replace the projections, inside the caller's transaction."""
        connection.execute("DELETE FROM conversation")
        connection.executemany(
            "INSERT INTO conversation VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(id_, *row) for id_, row in self.conversations.items()],
        )
        connection.execute("DELETE FROM counts")
        connection.executemany(_COUNTED, [(*key, *amounts) for key, amounts in self.counts.items()])

    def _row(self, conversation: str) -> list[int | None]:
        row = self.conversations.get(conversation)
        return row if row is not None else self._begun_before.setdefault(conversation, [None, None, None, 0, 0, None])


def _sum_up(total: list[int], more: Sequence[int]) -> None:
    turns, asked, answered, us, uj = more
    total[0] += turns
    total[1] += asked
    total[2] += answered
    total[3] += us
    total[4] += uj


def _take_over(row: list[int | None], later: list[int | None]) -> None:
    """Add what happened later in a conversation to its row."""
    if later[1] is not None:
        row[1], row[2] = later[1], later[2]
    row[3], row[4] = (row[3] or 0) + (later[3] or 0), (row[4] or 0) + (later[4] or 0)
    if later[5] is not None:
        row[5] = later[5]


def _nothing() -> list[int]:
    return [0, 0, 0, 0, 0]


def day_of(ts: int) -> str:
    """The UTC day of a time in microseconds, as 2026-01-31."""
    return _day(ts // 86_400_000_000)


@lru_cache(maxsize=4096)
def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).strftime("%Y-%m-%d")


def _key(record: Record) -> CountKey:
    return (
        day_of(record["ts"]), record["verdict"], record.get("category", ""), record["lang"], record["model"],
        record["finish"],
    )  # fmt: skip


def _amounts(record: Record) -> tuple[int, int, int, int, int]:
    usage = record["usage"]
    return (
        1, usage["prompt_tokens"], usage["reply_tokens"], usage["prefill_us"] + usage["decode_us"], usage["uj"] or 0
    )  # fmt: skip
