"""The head of the log: its size, its last link, and the tree's right edge, kept every so often so that opening stays
quick.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from assistant.errors import LedgerError
from assistant.store.merkle import GENESIS, Frontier

EVERY = 1024
"""After so many records the frontier is stored."""


@dataclass(slots=True)
class Head:
    """The end of the chain."""

    size: int
    link: bytes


def head(connection: sqlite3.Connection) -> Head:
    """The end of the chain now."""
    row = connection.execute("SELECT seq, link FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(row[0], row[1]) if row else Head(0, GENESIS)


def frontier(connection: sqlite3.Connection, size: int) -> Frontier:
    """The tree's right edge over the first `size` records, from the nearest stored one."""
    row = connection.execute("SELECT size, hashes FROM frontier WHERE size <= ? ORDER BY size DESC LIMIT 1", (size,)).fetchone()
    try:
        tree = Frontier(row[0], [row[1][i : i + 32] for i in range(0, len(row[1]), 32)]) if row else Frontier()
    except ValueError as error:
        raise LedgerError(f"the log's tree is damaged ({error}): run `pellucid audit verify`") from error
    while tree.size < size:
        rows = connection.execute(
            "SELECT leaf FROM ledger WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT 10000", (tree.size, size)
        ).fetchall()
        if not rows:
            raise LedgerError("records of the log are missing: run `pellucid audit verify`")
        for (leaf,) in rows:
            tree.add(leaf)
    return tree


def store_frontier(connection: sqlite3.Connection, size: int) -> None:
    """Keep the right edge at `size`, inside the caller's transaction."""
    tree = frontier(connection, size)
    connection.execute("INSERT OR REPLACE INTO frontier VALUES (?, ?)", (size, b"".join(tree.hashes)))
