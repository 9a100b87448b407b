"""Turns, conversations and attributions read back from the records. Every query is fetched whole: an open cursor would
keep a read lock and stop the writer.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from assistant.errors import LedgerError
from assistant.language import clean_intake
from assistant.store import canonical
from assistant.store.canonical import Record
from assistant.store.content import PROMPT, PROMPT_IDS, TOKENS, decode
from assistant.store.records import CLOSING, turn_of
from assistant.turn import Turn
from explain.attribution import Attribution

_TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Conversation:
    """One line of the list of conversations."""

    id: str
    title: str
    """As given, or the beginning of the first prompt; empty when that was erased."""
    turns: int
    updated_us: int
    flagged: int
    """How many of its turns were not simply allowed."""


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """A record inside that is not what this program writes becomes a LedgerError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RecursionError) as error:
        raise LedgerError(f"a record of the log cannot be read ({error!r}): run `pellucid audit verify`") from error


def full_id(connection: sqlite3.Connection, turn: str) -> str:
    """The id that `turn` is, or begins. Raises LedgerError when none or several do."""
    turn = clean_intake(turn.strip())
    for text in dict.fromkeys((turn, turn.upper())) if turn else ():
        if connection.execute("SELECT 1 FROM ledger WHERE turn = ? LIMIT 1", (text,)).fetchone():
            return text
        rows = connection.execute(
            "SELECT DISTINCT turn FROM ledger WHERE turn >= ? AND turn < ? LIMIT 2", (text, text + "\U0010ffff")
        ).fetchall()
        if len(rows) == 1:
            return str(rows[0][0])
        if len(rows) > 1:
            raise LedgerError(f"several turns begin with {turn!r}: give more of the id (see `pellucid audit list`)")
    raise LedgerError(f"there is no turn {turn!r} in the log: see `pellucid audit list`")


def read_turn(connection: sqlite3.Connection, turn: str, *, tokens: bool = True) -> Turn:
    """The turn with exactly this id; without `tokens` those of prompt and reply are left unread."""
    opened: Record | None = None
    closed: Record | None = None
    for (text,) in connection.execute("SELECT record FROM ledger WHERE turn = ? ORDER BY seq", (turn,)).fetchall():
        record = _record(text)
        if record["kind"] == "intent":
            opened = record
        elif record["kind"] in CLOSING:
            closed = record  # the last word counts
    if opened is None:
        raise LedgerError(f"there is no turn {turn!r} in the log: see `pellucid audit list`")
    parts: dict[str, Any] = {}
    erased: list[str] = []
    for record in (opened, closed) if closed else (opened,):
        found, gone = read_parts(connection, record, without=() if tokens else (TOKENS, PROMPT_IDS))
        parts |= found
        erased += gone
    if closed is None:
        rows = connection.execute("SELECT text FROM journal WHERE turn = ? ORDER BY step", (turn,)).fetchall()
        parts["reply"] = "".join(text for (text,) in rows)
    try:
        return turn_of(opened, closed, parts, tuple(erased))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"the turn {turn} cannot be read ({error!r}): run `pellucid audit verify`") from error


def read_parts(connection: sqlite3.Connection, record: Record, without: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """The decoded parts of a record, and the names of those erased."""
    marks = ",".join("?" * len(without))
    rows = connection.execute(
        f"SELECT part, codec, body FROM content WHERE seq = ? AND part NOT IN ({marks})", (record["seq"], *without)
    ).fetchall()
    found = {part: decode(codec, body) for part, codec, body in rows}
    missing = [part for part in record.get("content", {}) if part not in found and part not in without]
    if missing:
        rows = connection.execute("SELECT part FROM erased WHERE seq = ?", (record["seq"],)).fetchall()
        gone = {part for (part,) in rows}
        for part in missing:
            if part not in gone:
                raise LedgerError(f"the {part} of record {record['seq']} is missing: run `pellucid audit verify`")
    return found, missing


def thread_ids(connection: sqlite3.Connection, turn: str) -> list[str]:
    """The turn and its ancestors, oldest first."""
    ids: list[str] = []
    following: str | None = turn
    while following is not None and following not in ids:
        row = connection.execute("SELECT parent FROM ledger WHERE turn = ? AND kind = 'intent'", (following,)).fetchone()
        if row is None:
            raise LedgerError(f"there is no turn {following!r} in the log: see `pellucid audit list`")
        ids.append(following)
        following = row[0]
    return ids[::-1]


def read_conversations(connection: sqlite3.Connection, limit: int, before: str | None) -> list[Conversation]:
    """A page of conversations, newest first, after the one called `before`."""
    rows = connection.execute(
        """SELECT id, first_seq, title_seq, turns, updated, flagged FROM conversation
        WHERE last_seq < coalesce((SELECT last_seq FROM conversation WHERE id = ?), 9223372036854775807)
        ORDER BY last_seq DESC LIMIT ?""",
        (before, limit),
    ).fetchall()
    return [
        Conversation(id_, _title(connection, first, title), turns, updated, flagged) for id_, first, title, turns, updated, flagged in rows
    ]


def read_attributions(connection: sqlite3.Connection, turn: str) -> list[Attribution]:
    """The explanations kept for a turn, oldest first; erased ones are left out."""
    out: list[Attribution] = []
    for seq, codec, body in connection.execute(
        """SELECT seq, codec, body FROM ledger JOIN content USING (seq)
        WHERE turn = ? AND kind = 'attribution' AND part = 'attribution' ORDER BY seq""",
        (turn,),
    ).fetchall():
        try:
            out.append(Attribution.from_dict(decode(codec, body)))
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"the attribution in record {seq} cannot be read ({error!r})") from error
    return out


def excerpt(connection: sqlite3.Connection, seq: int, part: str, length: int = _TITLE_LENGTH) -> str:
    """The beginning of a text on one line; empty when it was erased."""
    row = connection.execute(
        "SELECT substr(CAST(body AS TEXT), 1, ?) FROM content WHERE seq = ? AND part = ?", (length + 1, seq, part)
    ).fetchone()
    text = " ".join(row[0].split()) if row else ""
    return text if len(text) <= length else text[: length - 1] + "…"


def _title(connection: sqlite3.Connection, first: int, title: int | None) -> str:
    return (title is not None and excerpt(connection, title, "title", 200)) or excerpt(connection, first, PROMPT)


def _record(text: str) -> Record:
    try:
        return canonical.decode(text)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"a record of the log cannot be read ({error}): run `pellucid audit verify`") from error
