"""Is the log still what was written? One walk over all records, in pages, beside a chat that goes on writing.

Recomputed: every leaf and link, the tree, every commitment, every erasure, the projections, the schema. What this
proves: nobody changed, dropped or reordered a record unless they rewrote everything after it; and with a checkpoint
kept outside the file (see `checkpoint`), not even that. What it cannot prove: that a record was true when it was
written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from assistant.audit import schema
from assistant.audit.outside import check_signatures, collect, kept_inside
from assistant.audit.report import Problem, Report
from assistant.store import canonical
from assistant.store.checkpoint import Checkpoint
from assistant.store.commitment import commit
from assistant.store.ledger import Ledger
from assistant.store.merkle import GENESIS, Frontier
from assistant.store.projections import Tally
from assistant.store.records import CLOSING

Progress = Callable[[int, int], None]
"""Called with the records done and their number."""

_RECORDS = "SELECT seq, CAST(record AS BLOB), leaf, link FROM ledger WHERE seq BETWEEN ? AND ? ORDER BY seq"
_CONTENTS = "SELECT seq, part, codec, salt, body FROM content WHERE seq BETWEEN ? AND ?"
_ERASED = "SELECT seq, part, redaction FROM erased WHERE seq BETWEEN ? AND ?"
_PAGE = 10_000
_CONTENT_PAGE = 500
"""Contents are heavy: fewer records at a time."""


def verify(
    ledger: Ledger,
    *,
    contents: bool = True,
    checkpoints: Iterable[Path] = (),
    outside: bool = True,
    key: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Check the whole log, or without `contents` only chain, tree, schema and checkpoints.

    With the public `key`, every signed checkpoint must bear its signature, and there must be one.
    Compared with the checkpoints kept outside the log (unless `outside` is False) and those in the files `checkpoints`.
    """
    report = Report(log=log_name(ledger))
    inside = kept_inside(ledger, report)
    known = [(point, "the checkpoint kept in the log") for point in inside]
    known += collect(report.log, ledger.path if outside else None, checkpoints, report, kept=outside)
    report.checkpoints = len(known)
    if key is not None:
        check_signatures([point for point, _ in known], key, report)
    with ledger.exclusive() as connection:
        # after the checkpoints were read: somebody may be writing, and a checkpoint never covers what is not there yet
        report.size = connection.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()[0]
        schema.check(connection, report)
        edges = dict(connection.execute("SELECT size, hashes FROM frontier").fetchall())
    expected: dict[int, list[tuple[bytes, str]]] = {}
    for point, name in known:
        if point.size <= report.size:
            expected.setdefault(point.size, []).append((point.root, name))
        else:
            report.add(_too_short(point, name, ledger.path, report.size))

    walk = _Walk(report, expected, edges, contents)
    page = _CONTENT_PAGE if contents else _PAGE
    while walk.seq < report.size:
        first, last = walk.seq + 1, min(walk.seq + page, report.size)
        rows = ledger.query(_RECORDS, (first, last))
        bodies = ledger.query(_CONTENTS, (first, last)) if contents else []
        gone = ledger.query(_ERASED, (first, last)) if contents else []
        walk.page(first, last, rows, bodies, gone)
        progress(walk.seq, report.size)
    report.root = walk.tree.root().hex()
    with ledger.exclusive() as connection:
        walk.finish(connection)
    return report


def _too_short(point: Checkpoint, name: str, database: Path | None, size: int) -> Problem:
    """A checkpoint covers more than there is: the log was cut, unless this is an older copy in another place."""
    copied = point.database not in ("", str(database.absolute()) if database else "")
    cause = "this is an older copy" if copied else "it was cut"
    message = f"{name} covers {point.size} records, but the log has only {size}: {cause}"
    return Problem("checkpoint", message, tampered=not copied)


class _Walk:
    """The state of the walk from the first record to the last."""

    def __init__(self, report: Report, roots: dict[int, list[tuple[bytes, str]]], edges: dict[int, bytes], contents: bool) -> None:
        self.report = report
        self.tree = Frontier()
        self.seq = 0
        self._roots = roots
        self._edges = edges
        self._contents = contents
        self._link = GENESIS
        self._tally = Tally()
        self._erased: dict[tuple[int, str], int] = {}
        self._redacted: dict[tuple[int, str], int] = {}

    def page(self, first: int, last: int, rows: list[Any], bodies: list[Any], gone: list[Any]) -> None:
        """Check the records `first` to `last` with their contents and erasures."""
        self._erased |= {(seq, part): redaction for seq, part, redaction in gone}
        texts: dict[int, dict[str, tuple[str, bytes, bytes]]] = {}
        for seq, part, codec, salt, body in bodies:
            texts.setdefault(seq, {})[part] = (codec, salt, body)
        expected = first
        follow, chain, add, watched = self._link, sha256, self.tree.add, self._roots.keys() | self._edges.keys()
        for seq, text, leaf, link in rows:
            if seq != expected:
                self._missing(expected, seq - 1)
            expected = seq + 1
            computed = chain(b"\x00" + text).digest()  # leaf_hash and link_hash, written out: this loop is the whole cost
            if computed != leaf:
                self.report.add(Problem("record", "the record was changed: it does not have its hash", seq))
            elif chain(b"\x02" + follow + computed).digest() != link:
                message = "the chain is broken: this record does not follow the one before it"
                self.report.add(Problem("chain", message, seq))
            follow = link  # one change is reported once, not for everything that follows
            add(computed)
            if seq in watched:
                self._compare_roots(seq)
            if self._contents:
                self._check_record(seq, text, texts.pop(seq, {}))
        self._link = follow
        if expected <= last:
            self._missing(expected, last)
        for seq, parts in texts.items():
            self.report.add(Problem("content", f"there is content ({', '.join(parts)}) for a record that is not there", seq))
        self.seq = last

    def finish(self, connection: sqlite3.Connection) -> None:
        """What can only be judged at the end: erasures, projections, the search index."""
        if not self._contents:
            return
        self.report.erased = len(self._erased)
        for (seq, part), redaction in self._erased.items():
            if self._redacted.get((seq, part)) != redaction:
                self.report.add(Problem("erasure", f"the {part} was deleted, but record {redaction} does not say so", seq))
        for (seq, part), redaction in self._redacted.items():
            if (seq, part) not in self._erased and seq <= self.report.size:
                row = connection.execute("SELECT 1 FROM erased WHERE seq = ? AND part = ?", (seq, part)).fetchone()
                if row is None:
                    self.report.add(Problem("erasure", f"record {redaction} erased the {part}, but it is still kept", seq))
        if connection.execute("SELECT max(seq) FROM ledger").fetchone()[0] != self.report.size:
            return  # somebody is writing: the projections are already ahead
        for name in self._tally.differences(connection):
            self.report.add(Problem("projection", f"the table {name} does not repeat the records", tampered=False))
        closed = connection.execute("SELECT count(*) FROM ledger WHERE kind IN ('output', 'interrupted')").fetchone()[0]
        indexed = connection.execute("SELECT count(*) FROM fts_docsize").fetchone()[0]
        wiped = self.wiped(connection)
        if indexed != closed - wiped:
            self.report.add(Problem("projection", f"the search index holds {indexed} turns of {closed - wiped}", tampered=False))

    def wiped(self, connection: sqlite3.Connection) -> int:
        """How many closed turns have neither prompt nor reply any more, so that nothing of them is indexed."""
        row = connection.execute(
            """SELECT count(*) FROM erased e JOIN ledger l USING (seq) WHERE e.part = 'reply' AND EXISTS (
              SELECT 1 FROM ledger i JOIN erased p ON p.seq = i.seq AND p.part = 'prompt'
              WHERE i.turn = l.turn AND i.kind = 'intent')"""
        ).fetchone()
        return int(row[0])

    def _missing(self, first: int, last: int) -> None:
        what = f"record {first} is" if first == last else f"the records {first} to {last} are"
        self.report.add(Problem("chain", f"{what} missing", first))

    def _compare_roots(self, seq: int) -> None:
        for root, name in self._roots.get(seq, ()):
            if self.tree.root() != root:
                self.report.add(Problem("checkpoint", f"the first {seq} records are not those that {name} vouches for", seq))
        edge = self._edges.get(seq)
        if edge is not None and edge != b"".join(self.tree.hashes):
            self.report.add(Problem("tree", f"the kept tree of the first {seq} records is not theirs", seq))

    def _check_record(self, seq: int, text: bytes, parts: dict[str, tuple[str, bytes, bytes]]) -> None:
        try:
            record = canonical.loads(text)
            vouched = record.get("content", {})
            kind = record["kind"]
            if record["seq"] != seq:
                self.report.add(Problem("record", f"the record says that it is number {record['seq']}", seq))
            if kind in CLOSING:
                self.report.turns += 1
            if kind == "redact":
                self._redacted |= {(int(s), str(p)): seq for s, p in record["erases"]}
            self._tally.add(record)
            for part, hashed in vouched.items():
                found = parts.pop(part, None)
                if found is None:
                    if (seq, part) not in self._erased:
                        self.report.add(Problem("content", f"the {part} is gone without an erasure", seq))
                    continue
                self.report.contents += 1
                codec, salt, body = found
                if commit(seq, part, codec, salt, body).hex() != hashed:
                    self.report.add(Problem("content", f"the {part} is not the one that was logged", seq))
                if (seq, part) in self._erased:
                    self.report.add(Problem("erasure", f"the {part} counts as erased but is still kept", seq))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.report.add(Problem("record", f"the record cannot be understood ({type(error).__name__})", seq))
        for part in parts:
            self.report.add(Problem("content", f"there is a {part} that the record does not know", seq))


def log_name(ledger: Ledger) -> str:
    """The log's own random name, from its first record; empty when that cannot be read."""
    rows = ledger.query("SELECT record ->> '$.log' FROM ledger WHERE seq = 1")
    return str(rows[0][0] or "") if rows else ""
