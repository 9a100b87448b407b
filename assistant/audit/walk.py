"""One walk over a stretch of records: every leaf and link, the tree over them, every text and erasure.

A link is compared with the one that is kept before it, so stretches can be walked apart from each other, by several processes
at once, and put together afterwards (`Stretch.follow`). What is sound is compared page by page; only in a page that is
not, the record that broke it is looked for.
"""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from assistant.audit.report import Problem, Report
from assistant.store import canonical
from assistant.store.commitment import commit
from assistant.store.connection import connect, translated
from assistant.store.merkle import GENESIS, Frontier
from assistant.store.projections import Tally
from assistant.store.records import CLOSING

_RECORDS = "SELECT seq, CAST(record AS BLOB), leaf, link FROM ledger WHERE seq BETWEEN ? AND ? ORDER BY seq"
_CONTENTS = "SELECT seq, part, codec, salt, body FROM content WHERE seq BETWEEN ? AND ? ORDER BY seq, part"
_ERASED = "SELECT seq, part, redaction FROM erased WHERE seq BETWEEN ? AND ?"
_BEFORE = "SELECT link FROM ledger WHERE seq < ? ORDER BY seq DESC LIMIT 1"
_PAGE = 256
_CONTENT_PAGE = 64
"""Records that are read at a time, few enough that what is made of them stays near the processor."""
_TOLD_EVERY = 4096
"""Records between two words about the progress."""

Text = tuple[str, bytes, bytes]
"""Coding, salt, body."""
Reading = Callable[[], contextlib.AbstractContextManager[sqlite3.Connection]]
"""Gives the connection for a moment."""


@dataclass(slots=True)
class Stretch:
    """What was found in the records `first` to `last`."""

    first: int
    last: int
    report: Report = field(default_factory=Report)
    tree: Frontier = field(default_factory=Frontier)
    """Over the leaves of this stretch alone."""
    edges: dict[int, list[bytes]] = field(default_factory=dict)
    """The right edge of that tree at the sizes (of the whole log) that are to be compared."""
    tally: Tally = field(default_factory=Tally)
    erased: dict[tuple[int, str], int] = field(default_factory=dict)
    redacted: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether no record of it is missing."""
        return self.tree.size == self.last - self.first + 1

    def root_at(self, size: int) -> bytes:
        """The root of the whole log at a watched size; for a stretch from the first record on."""
        hashes = self.edges[size]
        return Frontier((1 << len(hashes)) - 1, hashes).root()

    def follow(self, later: Stretch) -> None:
        """Put what was found after this stretch to it. Raises ValueError when the trees do not fit together."""
        for size, edge in later.edges.items():
            whole = self.tree.copy()
            whole.join(Frontier(size - self.tree.size, edge))
            self.edges[size] = whole.hashes
        self.tree.join(later.tree)
        self.last = later.last
        self.tally.follow(later.tally)
        self.erased |= later.erased
        self.redacted |= later.redacted
        self.report.turns += later.report.turns
        self.report.contents += later.report.contents
        self.report.left_out += later.report.left_out
        for problem in later.report.problems:
            self.report.add(problem)


def walk_file(path: Path, first: int, last: int, watched: Sequence[int], contents: bool) -> Stretch:
    """`walk` over a file with a connection of its own: the work of a process of its own."""
    gc.disable()  # nothing here is cyclic, and looking for that takes a fifth of the time
    with contextlib.closing(connect(path, read_only=True)) as connection, translated(path):
        return walk(lambda: contextlib.nullcontext(connection), first, last, watched, contents)


def walk(
    reading: Reading,
    first: int,
    last: int,
    watched: Sequence[int],
    contents: bool,
    progress: Callable[[int], None] = lambda seq: None,
) -> Stretch:
    """Check the records `first` to `last`; the tree's edge is kept at the `watched` sizes. Others may read and write between pages."""
    found = Stretch(first, last)
    with reading() as connection:
        row = connection.execute(_BEFORE, (first,)).fetchone()
    state = _Walk(found, _bytes(row[0]) if row else GENESIS, {size for size in watched if first <= size <= last}, contents)
    page = _CONTENT_PAGE if contents else _PAGE
    for start in range(first, last + 1, page):
        end = min(start + page - 1, last)
        with reading() as connection, _one_moment(connection):
            rows = connection.execute(_RECORDS, (start, end)).fetchall()
            bodies = connection.execute(_CONTENTS, (start, end)).fetchall() if contents else []
            gone = connection.execute(_ERASED, (start, end)).fetchall() if contents else []
        state.page(start, end, rows, bodies, gone)
        if (end - first + 1) % _TOLD_EVERY == 0 or end == last:
            progress(end)
    return found


@contextlib.contextmanager
def _one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is read inside is of the same moment: an erasure may happen meanwhile."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


class _Walk:
    """The state of a walk from one page to the next."""

    def __init__(self, found: Stretch, link: bytes, watched: set[int], contents: bool) -> None:
        self._found = found
        self._report = found.report
        self._link = link
        self._watched = watched
        self._contents = contents

    def page(self, first: int, last: int, rows: list[Any], bodies: list[Any], gone: list[Any]) -> None:
        """Check the records `first` to `last` with their contents and erasures."""
        self._found.erased |= {(seq, part): redaction for seq, part, redaction in gone}
        leaves = [sha256(b"\x00" + text).digest() for _, text, _, _ in rows]  # leaf_hash, written out: this is the whole cost
        if not self._is_sound(first, last, rows, leaves):
            self._locate(first, last, rows, leaves)
        self._grow(rows, leaves)
        if rows:
            self._link = _bytes(rows[-1][3])
        if not self._contents:
            return
        records = self._parse([row[1] for row in rows])
        if not gone and self._contents_are_sound(rows, records, bodies):
            self._report.contents += len(bodies)
            for (seq, _, _, _), record in zip(rows, records, strict=True):
                self._take_in(seq, record)
            return
        texts: dict[int, dict[str, Text]] = {}
        for seq, part, codec, salt, body in bodies:
            texts.setdefault(seq, {})[part] = (codec, salt, body)
        for (seq, text, _, _), record in zip(rows, records, strict=True):
            self._check_record(seq, text, record, texts.pop(seq, {}))
        for seq, parts in texts.items():
            self._report.add(Problem("content", f"there is content ({', '.join(parts)}) for a record that is not there", seq))

    def _parse(self, texts: list[bytes]) -> list[canonical.Record | None]:
        """The records of a page; None where one of them is broken, so that each must be read by itself."""
        try:
            return [*canonical.loads_many(texts)]
        except (ValueError, TypeError, RecursionError):
            return [None] * len(texts)

    def _contents_are_sound(self, rows: list[Any], records: list[Any], bodies: list[Any]) -> bool:
        """Whether every record has its own number and vouches for exactly the contents that are there: all of a page at once."""
        try:
            if [record["seq"] for record in records] != [row[0] for row in rows]:
                return False
            vouched = [
                (record["seq"], part, hashed) for record in records if "content" in record for part, hashed in record["content"].items()
            ]
            return vouched == [(seq, part, commit(seq, part, codec, salt, body).hex()) for seq, part, codec, salt, body in bodies]
        except (ValueError, KeyError, TypeError, AttributeError, struct.error):
            return False  # some record or content is none

    def _take_in(self, seq: int, record: Any) -> None:
        """What the records say together."""
        try:
            kind = record["kind"]
            if kind in CLOSING:
                self._report.turns += 1
            elif kind == "redact":
                self._found.redacted |= {(int(s), str(p)): seq for s, p in record["erases"]}
            self._found.tally.add(record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._report.add(Problem("record", f"the record cannot be understood ({type(error).__name__})", seq))

    def _is_sound(self, first: int, last: int, rows: list[Any], leaves: list[bytes]) -> bool:
        """Whether all numbers are there, every record has its hash, and each follows the one before it."""
        if len(rows) != last - first + 1 or leaves != [row[2] for row in rows]:
            return False
        links = [row[3] for row in rows]
        before = [self._link, *links[:-1]]
        try:
            return [sha256(b"\x02" + a + b).digest() for a, b in zip(before, leaves, strict=True)] == links
        except TypeError:
            return False  # a link is no bytes

    def _locate(self, first: int, last: int, rows: list[Any], leaves: list[bytes]) -> None:
        """Say what is not sound, record by record."""
        expected, follow = first, self._link
        for (seq, _, leaf, link), computed in zip(rows, leaves, strict=True):
            if seq != expected:
                self._missing(expected, seq - 1)
            expected = seq + 1
            if computed != leaf:
                self._report.add(Problem("record", "the record was changed: it does not have its hash", seq))
            elif sha256(b"\x02" + follow + computed).digest() != link:
                message = "the chain is broken: this record does not follow the one before it"
                self._report.add(Problem("chain", message, seq))
            follow = _bytes(link)  # one change is reported once, not for everything that follows
        if expected <= last:
            self._missing(expected, last)

    def _grow(self, rows: list[Any], leaves: list[bytes]) -> None:
        """Take the leaves into the tree, and keep its edge where it is watched."""
        tree, done = self._found.tree, 0
        for upto, size in [(i, row[0]) for i, row in enumerate(rows, 1) if row[0] in self._watched]:
            tree.extend(leaves[done:upto])
            self._found.edges[size] = list(tree.hashes)
            done = upto
        tree.extend(leaves[done:])

    def _missing(self, first: int, last: int) -> None:
        what = f"record {first} is" if first == last else f"the records {first} to {last} are"
        self._report.add(Problem("chain", f"{what} missing", first))

    def _check_record(self, seq: int, text: bytes, record: canonical.Record | None, parts: dict[str, Text]) -> None:
        found, add = self._found, self._report.add
        try:
            if record is None:
                record = canonical.loads(text)
            vouched = record.get("content", {})
            kind = record["kind"]
            if record["seq"] != seq:
                add(Problem("record", f"the record says that it is number {record['seq']}", seq))
            if kind in CLOSING:
                self._report.turns += 1
            if kind == "redact":
                found.redacted |= {(int(s), str(p)): seq for s, p in record["erases"]}
            found.tally.add(record)
            for part, hashed in vouched.items():
                kept = parts.pop(part, None)
                if kept is None:
                    if (seq, part) not in found.erased:
                        add(Problem("content", f"the {part} is gone without an erasure", seq))
                    continue
                self._report.contents += 1
                codec, salt, body = kept
                if commit(seq, part, codec, salt, body).hex() != hashed:
                    add(Problem("content", f"the {part} is not the one that was logged", seq))
                if (seq, part) in found.erased:
                    add(Problem("erasure", f"the {part} counts as erased but is still kept", seq))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            add(Problem("record", f"the record cannot be understood ({type(error).__name__})", seq))
        for part in parts:
            add(Problem("content", f"there is a {part} that the record does not know", seq))


def _bytes(value: Any) -> bytes:
    """A hash as it is kept; a damaged page can give something else."""
    return value if isinstance(value, bytes) else b""
