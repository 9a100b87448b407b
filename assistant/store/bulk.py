"""Filling a new, private database quickly: guards and indexes are put up after the rows, not before each of them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from assistant.store import canonical, tree
from assistant.store.canonical import Record
from assistant.store.merkle import Frontier
from assistant.store.projections import Tally
from assistant.store.records import CLOSING
from assistant.store.search import add_to_index, indexed_texts

_PAGE = 2000


@contextlib.contextmanager
def loading(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction without waiting for the disk. Only for a file that is thrown away when this fails."""
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF").fetchall()
    connection.execute("PRAGMA cache_size = -200000")
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = TRUNCATE").fetchall()


@contextlib.contextmanager
def unguarded(connection: sqlite3.Connection) -> Iterator[None]:
    """Without triggers and indexes inside; both are back afterwards, word for word."""
    rows = connection.execute(
        """SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql IS NOT NULL
        AND tbl_name NOT LIKE 'fts%' AND tbl_name NOT LIKE '\\_sqlite%' ESCAPE '\\' ORDER BY rowid"""
    ).fetchall()
    for kind, name, _ in rows:
        connection.execute(f"DROP {kind} {name}")
    yield
    for _, _, sql in rows:
        connection.execute(sql)


def insert(
    connection: sqlite3.Connection,
    rows: Sequence[tuple[int, str, bytes, bytes]],
    parts: Sequence[tuple[int, str, str, bytes, bytes]],
) -> None:
    """Insert records (number, text, leaf, link) and contents (number, part, coding, salt, body)."""
    connection.executemany("INSERT INTO ledger (seq, record, leaf, link) VALUES (?, ?, ?, ?)", rows)
    connection.executemany("INSERT INTO content VALUES (?, ?, ?, ?, ?)", parts)


def probe(record: Record) -> None:
    """Raises KeyError, TypeError or ValueError when the projections could not take this record."""
    Tally().add(record)


def rebuild(connection: sqlite3.Connection, *, index: bool = True) -> None:
    """Make the projections, the kept tree and the search index anew from the records, inside the caller's
    transaction.
    """
    tally, edge = Tally(), Frontier()
    connection.execute("DELETE FROM frontier")
    if index:
        connection.execute("INSERT INTO fts (fts) VALUES ('delete-all')")
    last = 0
    while rows := connection.execute(f"SELECT seq, record, leaf FROM ledger WHERE seq > ? ORDER BY seq LIMIT {_PAGE}", (last,)).fetchall():
        for seq, text, leaf in rows:
            last = seq
            record: dict[str, Any] = canonical.loads(text)
            tally.add(record)
            edge.add(leaf)
            if seq % tree.EVERY == 0:
                connection.execute("INSERT INTO frontier VALUES (?, ?)", (seq, b"".join(edge.hashes)))
            if index and record["kind"] in CLOSING:
                prompt, reply = indexed_texts(connection, seq, record["turn"])
                if prompt or reply or not _is_erased(connection, seq):
                    add_to_index(connection, seq, prompt, reply)
    tally.write(connection)


def _is_erased(connection: sqlite3.Connection, seq: int) -> bool:
    return connection.execute("SELECT 1 FROM erased WHERE seq = ? AND part = 'reply'", (seq,)).fetchone() is not None
