"""Filling a new, private database quickly: guards and indexes are put up after the rows, not before each of them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from assistant.store import canonical, tree
from assistant.store.canonical import Record
from assistant.store.content import PROMPT, REPLY
from assistant.store.merkle import GENESIS, Frontier, leaf_hash, link_hash
from assistant.store.projections import Tally
from assistant.store.records import CLOSING
from assistant.store.search import add_to_index, indexed_texts

_PAGE = 2000

Content = tuple[int, str, str, bytes, bytes]
"""Record number, part, coding, salt, body."""


class Loader:
    """Takes records in their order, hashes and links them, and sums up what only repeats them."""

    def __init__(self, connection: sqlite3.Connection, *, index: bool = True) -> None:
        self.tree = Frontier()
        self._connection = connection
        self._index = index
        self._link = GENESIS
        self._tally = Tally()
        self._rows: list[tuple[int, str, bytes, bytes]] = []
        self._parts: list[Content] = []
        self._prompts: dict[str, str] = {}  # of turns whose outcome is still to come

    def add(self, record: Record, text: str, parts: Sequence[Content] = ()) -> None:
        """The next record with its canonical text and contents. Raises KeyError, TypeError or ValueError when it is none."""
        leaf = leaf_hash(text.encode())
        self._link = link_hash(self._link, leaf)
        self._tally.add(record)
        self.tree.add(leaf)
        size = self.tree.size
        self._rows.append((size, text, leaf, self._link))
        self._parts += parts
        if self._index and "turn" in record:
            self._add_words(record, parts)
        if size % tree.EVERY == 0:
            self._connection.execute("INSERT INTO frontier VALUES (?, ?)", (size, b"".join(self.tree.hashes)))
        if len(self._rows) >= _PAGE:
            self.flush()

    def flush(self) -> None:
        """Write what has been taken in."""
        self._connection.executemany("INSERT INTO ledger (seq, record, leaf, link) VALUES (?, ?, ?, ?)", self._rows)
        self._connection.executemany("INSERT INTO content VALUES (?, ?, ?, ?, ?)", self._parts)
        self._rows, self._parts = [], []

    def finish(self) -> None:
        """Write the rest and the sums, inside the caller's transaction."""
        self.flush()
        self._tally.write(self._connection)

    def _add_words(self, record: Record, parts: Sequence[Content]) -> None:
        texts = {part: body for _, part, _, _, body in parts if part in (PROMPT, REPLY)}
        if record["kind"] == "intent" and PROMPT in texts:
            self._prompts[record["turn"]] = texts[PROMPT].decode()
        elif record["kind"] in CLOSING:
            prompt = self._prompts.pop(record["turn"], None)
            if prompt is not None or REPLY in texts:
                add_to_index(self._connection, record["seq"], prompt or "", texts.get(REPLY, b"").decode())


@contextlib.contextmanager
def loading(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction without waiting for the disk. Only for a file that is thrown away when this fails."""
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF").fetchall()
    connection.execute("PRAGMA secure_delete = OFF").fetchall()
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


def rebuild(connection: sqlite3.Connection) -> None:
    """Make the projections, the kept tree and the search index anew from the records, inside the caller's transaction."""
    tally, edge = Tally(), Frontier()
    connection.execute("DELETE FROM frontier")
    for record, leaf in _records(connection):
        tally.add(record)
        edge.add(leaf)
        if edge.size % tree.EVERY == 0:
            connection.execute("INSERT INTO frontier VALUES (?, ?)", (edge.size, b"".join(edge.hashes)))
    tally.write(connection)
    rebuild_index(connection)


def rebuild_index(connection: sqlite3.Connection) -> None:
    """Make the search index anew from the texts that are still there."""
    connection.execute("INSERT INTO fts (fts) VALUES ('delete-all')")
    for record, _ in _records(connection, "WHERE kind IN ('output', 'interrupted') AND"):
        prompt, reply = indexed_texts(connection, record["seq"], record["turn"])
        if prompt or reply or not _is_wiped(connection, record):
            add_to_index(connection, record["seq"], prompt, reply)


def _records(connection: sqlite3.Connection, where: str = "WHERE") -> Iterator[tuple[dict[str, Any], bytes]]:
    last = 0
    while rows := connection.execute(
        f"SELECT seq, record, leaf FROM ledger {where} seq > ? ORDER BY seq LIMIT {_PAGE}", (last,)
    ).fetchall():
        for last, text, leaf in rows:  # noqa: B007
            yield canonical.loads(text), leaf


def _is_wiped(connection: sqlite3.Connection, record: Record) -> bool:
    """Whether both texts of a turn were erased, so that it has no row in the index."""
    row = connection.execute(
        """SELECT count(*) FROM erased WHERE (seq = ?1 AND part = 'reply') OR (part = 'prompt' AND
        seq = (SELECT seq FROM ledger WHERE turn = ?2 AND kind = 'intent'))""",
        (record["seq"], record["turn"]),
    ).fetchone()
    return bool(row[0] == 2)
