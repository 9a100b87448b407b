"""The only way a record gets into the ledger: numbered, stamped, hashed, linked, with its content beside it, in one
transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from assistant.store import canonical, projections, tree
from assistant.store.commitment import commit, new_salt
from assistant.store.content import Part
from assistant.store.merkle import leaf_hash, link_hash

Clock = Callable[[], int]
"""Tells the time in nanoseconds since 1970."""


class Appender:
    """Appends to one connection. `stamp` is added to every record: who and which session wrote it."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock = time.time_ns) -> None:
        self._connection = connection
        self._clock = clock
        self._head: tree.Head | None = None
        self.stamp: dict[str, Any] = {}
        self.appended = 0
        """Records added since the last checkpoint."""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside happens or nothing does. Takes the write lock at once, so that the head cannot move."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._head = None  # another program may have appended since
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def append(self, kind: str, fields: Mapping[str, Any], parts: Sequence[Part] = ()) -> int:
        """Add one record, inside `transaction`. Returns its number."""
        last = self._head or tree.head(self._connection)
        seq = last.size + 1
        record = {**self.stamp, **fields, "v": 1, "seq": seq, "ts": self._clock() // 1000, "kind": kind}
        rows = []
        if parts:
            vouched: dict[str, str] = {}
            for part in parts:
                salt = new_salt()
                vouched[part.name] = commit(seq, part.name, part.codec, salt, part.body).hex()
                rows.append((seq, part.name, part.codec, salt, part.body))
            record["content"] = vouched
        text = canonical.encode(record)
        leaf = leaf_hash(text.encode())
        link = link_hash(last.link, leaf)
        self._connection.execute("INSERT INTO ledger (seq, record, leaf, link) VALUES (?, ?, ?, ?)", (seq, text, leaf, link))
        if rows:
            self._connection.executemany("INSERT INTO content VALUES (?, ?, ?, ?, ?)", rows)
        self._head = tree.Head(seq, link)
        self.appended += 1
        projections.apply(self._connection, record)
        if seq % tree.EVERY == 0:
            tree.store_frontier(self._connection, seq)
        return seq
