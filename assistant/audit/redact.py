"""Erasing: texts and salts go, with every trace in the file; the records stay, and the log still verifies.

One transaction writes the `redact` records, takes the words out of the search index (and its dead segments with them)
and deletes the content. SQLite overwrites what it frees. Then the raw file is searched for what was erased; should
anything be left in the slack of a page, the file is written anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant.audit.selection import Selection, Target, by_turn, select
from assistant.errors import LedgerError
from assistant.store.content import PROMPT, REPLY
from assistant.store.driver import errors
from assistant.store.ledger import Ledger
from assistant.store.search import add_to_index, indexed_texts, take_from_index

_PER_RECORD = 500
"""Parts that one redact record names at most."""
_SAMPLED = 40
"""So many erased parts are looked for in the raw file; more are erased by writing the file anew at once."""
_CHUNK = 16 << 20


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was done."""

    turns: int
    parts: int
    records: list[int] = field(default_factory=list)
    """The redact records."""
    rewritten: bool = False
    """Whether the file had to be written anew to be rid of every byte."""


def redact(ledger: Ledger, selection: Selection | str, reason: str, *, actor: str = "") -> Erasure:
    """Erase a selection, or one turn, for good. Raises LedgerError; then nothing was erased."""
    if isinstance(selection, str):
        selection = select(ledger, by_turn(ledger, [selection]))
    if not selection.targets:
        return Erasure(0, 0)
    numbers: list[int] = []
    with ledger.transaction() as appender, ledger.exclusive() as connection:
        needles = _needles(connection, selection.targets)
        for first in range(0, len(selection.targets), _PER_RECORD):
            some = selection.targets[first : first + _PER_RECORD]
            fields: dict[str, Any] = {"erases": [[seq, part] for seq, part in some], "reason": reason}
            number = appender.append("redact", {**fields, "actor": actor} if actor else fields)
            numbers.append(number)
            _unindex(connection, some)
            connection.executemany("INSERT INTO erased VALUES (?, ?, ?)", [(seq, part, number) for seq, part in some])
            connection.executemany("DELETE FROM content WHERE seq = ? AND part = ?", some)
        connection.execute("INSERT INTO fts (fts) VALUES ('optimize')")
    rewritten = _leave_no_trace(ledger, needles)
    return Erasure(len(selection.turns), len(selection.targets), numbers, rewritten)


def residue(path: Path, needles: Sequence[bytes]) -> list[bytes]:
    """Which of `needles` are still somewhere in the raw files of a database."""
    found: dict[bytes, None] = {}
    for suffix in ("", "-journal", "-wal"):
        file = path.with_name(path.name + suffix)
        if not file.exists():
            continue
        overlap = max((len(needle) for needle in needles), default=1) - 1
        with file.open("rb") as raw:
            tail = b""
            while chunk := raw.read(_CHUNK):
                chunk = tail + chunk
                found |= dict.fromkeys(needle for needle in needles if needle in chunk)
                tail = chunk[-overlap:] if overlap else b""
    return list(found)


def _needles(connection: sqlite3.Connection, targets: Sequence[Target]) -> list[bytes]:
    """Byte strings that must not be in the file afterwards: salts, and pieces of the bodies. Empty for a big
    erasure.
    """
    if len(targets) > _SAMPLED:
        return []
    needles: dict[bytes, None] = {}
    for seq, part in targets:
        salt, body = connection.execute("SELECT salt, body FROM content WHERE seq = ? AND part = ?", (seq, part)).fetchone()
        for piece in (salt, body[:48], body[len(body) // 2 :][:48], body[-48:]):
            if len(piece) >= 16:
                needles[bytes(piece)] = None
    return list(needles)


def _unindex(connection: sqlite3.Connection, targets: Sequence[Target]) -> None:
    """Take the words of the targets out of the search index, and leave those of what stays."""
    going = set(targets)
    rows: dict[int, str] = {}
    for seq, part in targets:
        if part in (PROMPT, REPLY):
            turn = connection.execute("SELECT turn FROM ledger WHERE seq = ?", (seq,)).fetchone()[0]
            for (closing,) in connection.execute(
                "SELECT seq FROM ledger WHERE turn = ? AND kind IN ('output', 'interrupted')", (turn,)
            ).fetchall():
                rows[closing] = turn
    for closing, turn in rows.items():
        prompt, reply = indexed_texts(connection, closing, turn)
        if not connection.execute("SELECT 1 FROM fts_docsize WHERE id = ?", (closing,)).fetchone():
            continue
        take_from_index(connection, closing, prompt, reply)
        opened = connection.execute("SELECT seq FROM ledger WHERE turn = ? AND kind = 'intent'", (turn,)).fetchone()[0]
        keep_prompt = (opened, PROMPT) not in going and _is_kept(connection, opened, PROMPT)
        keep_reply = (closing, REPLY) not in going and _is_kept(connection, closing, REPLY)
        if keep_prompt or keep_reply:
            add_to_index(connection, closing, prompt if keep_prompt else "", reply if keep_reply else "")


def _is_kept(connection: sqlite3.Connection, seq: int, part: str) -> bool:
    return connection.execute("SELECT 1 FROM content WHERE seq = ? AND part = ?", (seq, part)).fetchone() is not None


def _leave_no_trace(ledger: Ledger, needles: list[bytes]) -> bool:
    """Make sure that no erased byte is left in the files. True when that took writing the database anew."""
    with ledger.exclusive() as connection:
        if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if ledger.path is None or (needles and not _left(connection, ledger.path, needles)):
            return False
        try:
            connection.execute("VACUUM")
        except errors() as error:
            raise LedgerError(
                "everything was erased, but bytes of it may be left in unused corners of the file, which could not "
                f"be written anew ({error}): free some space and run `pellucid audit doctor --repair`"
            ) from error
        if left := _left(connection, ledger.path, needles):
            raise LedgerError(f"{len(left)} erased pieces are still in {ledger.path}: copy it with `pellucid audit backup`")
    return True


def _left(connection: sqlite3.Connection, path: Path, needles: list[bytes]) -> list[bytes]:
    """The needles still in the files that no other text of the log contains."""
    return [
        needle
        for needle in residue(path, needles)
        if not connection.execute("SELECT 1 FROM content WHERE instr(body, ?) LIMIT 1", (needle,)).fetchone()
    ]
