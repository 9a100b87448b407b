"""Filling a new, private database quickly: without guards, a page of records at a time, in statements of many rows.

SQLite writes a page in a thread of its own while the next one is hashed: its long statements leave Python's lock to others.
The search index is made at the end, of all texts at once: its pieces are large then, and none is merged again.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import chain
from typing import Any

from assistant.language import clean_intake
from assistant.store import canonical, tree
from assistant.store.canonical import Record
from assistant.store.merkle import GENESIS, Frontier
from assistant.store.projections import Tally
from assistant.store.segment import for_index

_PAGE = 512
_AHEAD = 8
"""Pages that may wait for SQLite."""
_STATEMENT = 256
"""Rows of one statement."""
_SORTER_BYTES = 64 << 20
_SORTER_DEFAULT = 1 << 20
"""What the search index collects in memory before it writes a piece of itself."""

Content = tuple[int, str, str, bytes, bytes]
"""Record number, part, coding, salt, body."""


class Loader:
    """Takes records in their order, hashes and links them, and sums up what only repeats them.

    A context manager: inside, the connection is the loader's alone between `add` and `flush`. What SQLite reports is raised by one of the
    calls that follow.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.tree = Frontier()
        """Over what was taken in, but for the last page."""
        self.size = 0
        """Records taken in."""
        self._connection = connection
        self._link = GENESIS
        self._tally = Tally()
        self._texts: list[str] = []
        self._parts: list[Content] = []
        self._writer = ThreadPoolExecutor(1, "bulk")
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.shutdown(wait=True, cancel_futures=True)

    def add(self, record: Record, text: str, parts: Sequence[Content] = ()) -> None:
        """The next record with its canonical text and contents. Raises KeyError, TypeError or ValueError when it is none."""
        self._tally.add(record)
        self._texts.append(text)
        self._parts += parts
        self.size += 1
        if self.size % _PAGE == 0:
            self._page()

    def flush(self) -> None:
        """Hash and write what has been taken in; all of it is written when this returns."""
        self._page()
        while self._writing:
            self._writing.popleft().result()

    def _page(self) -> None:
        leaves = [sha256(b"\x00" + text.encode()).digest() for text in self._texts]  # leaf_hash and link_hash, written out
        links, link = [], self._link
        for leaf in leaves:
            link = sha256(b"\x02" + link + leaf).digest()
            links.append(link)
        self._link = link
        first, edges = self.tree.size + 1, []
        while leaves[(done := self.tree.size - first + 1) :]:
            self.tree.extend(leaves[done : done + tree.EVERY - self.tree.size % tree.EVERY])
            if self.tree.size % tree.EVERY == 0:
                edges.append((self.tree.size, b"".join(self.tree.hashes)))
        records = list(zip(range(first, self.size + 1), self._texts, leaves, links, strict=True))
        while len(self._writing) >= _AHEAD:
            self._writing.popleft().result()
        self._writing.append(self._writer.submit(self._write, records, self._parts, edges))
        self._texts, self._parts = [], []

    def finish(self) -> None:
        """Write the rest and the sums, inside the caller's transaction. The search index is left to `rebuild_index`."""
        self.flush()
        self._tally.write(self._connection)

    def _write(self, records: Sequence[tuple[Any, ...]], parts: Sequence[Content], edges: Sequence[tuple[Any, ...]]) -> None:
        self._insert("ledger (seq, record, leaf, link)", records)
        self._insert("content", parts)
        self._insert("frontier", edges)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for first in range(0, len(rows), _STATEMENT):
            some = rows[first : first + _STATEMENT]
            self._connection.execute(_statement(table, len(some), len(some[0])), list(chain.from_iterable(some)))


@cache
def _statement(table: str, rows: int, columns: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {table} VALUES {', '.join([one] * rows)}"


@contextlib.contextmanager
def loading(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction without waiting for the disk. Only for a file that is thrown away when this fails."""
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF").fetchall()
    connection.execute("PRAGMA secure_delete = OFF").fetchall()
    connection.execute("PRAGMA cache_size = -200000")
    # what these would find was found before: records are canonical JSON, and every content was compared with its record
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA ignore_check_constraints = OFF")
    connection.execute("PRAGMA journal_mode = TRUNCATE").fetchall()


@contextlib.contextmanager
def unguarded(connection: sqlite3.Connection) -> Iterator[None]:
    """Without triggers inside, and without computing the columns that are in no index; all is back afterwards, word for word.

    A generated column is not stored: its definition can be exchanged, by the way that SQLite documents for changes that do not concern
    the file (https://sqlite.org/lang_altertable.html, section 7). Indexes stay: their rows come almost in order.
    """
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid").fetchall()
    for name, _ in rows:
        connection.execute(f"DROP TRIGGER {name}")
    definition = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'ledger'").fetchone()[0]
    indexed = connection.execute(
        "SELECT c.name FROM pragma_index_list('ledger') i, pragma_index_info(i.name) c WHERE c.name IS NOT NULL"
    ).fetchall()
    _define(
        connection, "ledger", _COMPUTED.sub(lambda m: m[0] if (m["name"],) in indexed else f"{m['name']} {m['type']} AS (NULL)", definition)
    )
    yield
    _define(connection, "ledger", definition)
    for _, sql in rows:
        connection.execute(sql)


_COMPUTED = re.compile(r"(?P<name>\w+) (?P<type>\w+) AS \(json_extract\(record, '[^']*'\)\)")


def _define(connection: sqlite3.Connection, table: str, definition: str) -> None:
    """Exchange the definition of a table for one with the same rows, inside the caller's transaction."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?", (definition, table))
    connection.execute("PRAGMA writable_schema = RESET").fetchall()


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


def rebuild_index(connection: sqlite3.Connection, progress: Callable[[int], None] = lambda turns: None) -> None:
    """Make the search index anew from the texts that are still there, inside the caller's transaction. `progress` is told the turns
    that were taken in."""
    connection.execute("INSERT INTO fts (fts) VALUES ('delete-all')")
    connection.execute("INSERT INTO fts (fts, rank) VALUES ('hashsize', ?)", (_SORTER_BYTES,))
    after = done = 0
    while rows := connection.execute(_TEXTS, {"after": after, "page": _PAGE}).fetchall():
        after = rows[-1][0]
        words = [_words(seq, _text(asked), _text(answered)) for seq, asked, answered, wiped in rows if wiped < 2]
        # row by row: SQLite closes the piece of the index at every statement of many rows
        connection.executemany("INSERT INTO fts (rowid, prompt, reply) VALUES (?, ?, ?)", words)
        done += len(words)
        progress(done)
    connection.execute("INSERT INTO fts (fts, rank) VALUES ('hashsize', ?)", (_SORTER_DEFAULT,))


_TEXTS = """SELECT o.seq, p.body, r.body,
  (p.body IS NULL AND EXISTS (SELECT 1 FROM erased WHERE seq = i.seq AND part = 'prompt'))
  + (r.body IS NULL AND EXISTS (SELECT 1 FROM erased WHERE seq = o.seq AND part = 'reply'))
FROM ledger o
LEFT JOIN ledger i ON i.seq = (SELECT min(seq) FROM ledger WHERE turn = o.turn AND kind = 'intent')
LEFT JOIN content p ON p.seq = i.seq AND p.part = 'prompt'
LEFT JOIN content r ON r.seq = o.seq AND r.part = 'reply'
WHERE o.seq IN (SELECT seq FROM ledger WHERE kind IN ('output', 'interrupted') AND seq > :after ORDER BY seq LIMIT :page)
ORDER BY o.seq"""
"""Prompt and reply of every closed turn, and how many of the two were erased."""


def _words(seq: int, prompt: str, reply: str) -> tuple[int, str, str]:
    """A row of the search index, as `search.add_to_index` writes it."""
    return seq, for_index(clean_intake(prompt)), for_index(clean_intake(reply))


def _text(body: bytes | None) -> str:
    return "" if body is None else bytes(body).decode("utf-8", "replace")


def _records(connection: sqlite3.Connection) -> Iterator[tuple[Record, bytes]]:
    last = 0
    while rows := connection.execute("SELECT seq, record, leaf FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?", (last, _PAGE)).fetchall():
        for last, text, leaf in rows:  # noqa: B007
            yield canonical.loads(text), leaf
