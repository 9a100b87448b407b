"""Is the log still what was written? One walk over all records, in pages, beside a chat that goes on writing.

Recomputed: every leaf and link, the tree, every commitment, every erasure, the projections, the schema. What this
proves: nobody changed, dropped or reordered a record unless they rewrote everything after it; and with a checkpoint
kept outside the file (see `checkpoint`), not even that. What it cannot prove: that a record was true when it was
written.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from assistant.audit import schema
from assistant.audit.outside import check_signatures, collect, kept_inside
from assistant.audit.report import Problem, Report
from assistant.audit.walk import Stretch, walk, walk_file
from assistant.store import canonical
from assistant.store.checkpoint import Checkpoint
from assistant.store.ledger import Ledger

Progress = Callable[[int, int], None]
"""Called with the records done and their number."""

STRETCH = 1 << 16
"""Records that one process walks at a time: a full subtree, so that the trees of the stretches fit together."""


def verify(
    ledger: Ledger,
    *,
    contents: bool = True,
    checkpoints: Iterable[Path] = (),
    outside: bool = True,
    key: Path | None = None,
    processes: int = 1,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Check the whole log, or without `contents` only chain, tree, schema and checkpoints.

    With the public `key`, every signed checkpoint must bear its signature, and there must be one.
    Compared with the checkpoints kept outside the log (unless `outside` is False) and those in the files `checkpoints`.
    A long log is walked by so many `processes` at once.
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
    roots: dict[int, list[tuple[bytes, str]]] = {}
    for point, name in known:
        if point.size <= report.size:
            roots.setdefault(point.size, []).append((point.root, name))
        else:
            report.add(_too_short(point, name, ledger.path, report.size))

    found = _walk(ledger, report.size, sorted(roots.keys() | edges.keys()), contents, processes, progress)
    report.turns, report.contents, report.left_out = found.report.turns, found.report.contents, report.left_out + found.report.left_out
    for problem in found.report.problems:
        report.add(problem)
    report.root = found.tree.root().hex()
    _compare_roots(found, roots, edges, report)
    if contents:
        with ledger.exclusive() as connection:
            _compare_erasures(found, connection, report)
            _compare_projections(found, connection, report)
    return report


def log_name(ledger: Ledger) -> str:
    """The log's own random name, from its first record; empty when that cannot be read."""
    rows = ledger.query("SELECT record ->> '$.log' FROM ledger WHERE seq = 1")
    return str(rows[0][0] or "") if rows else ""


def all_processors() -> int:
    """How many processes this program may keep busy."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _walk(ledger: Ledger, size: int, watched: Sequence[int], contents: bool, processes: int, progress: Progress) -> Stretch:
    if processes > 1 and ledger.path is not None and size > 2 * STRETCH:
        found = _walk_together(ledger.path, size, watched, contents, processes, progress)
        if found is not None:
            return found
    return walk(ledger.exclusive, 1, size, watched, contents, lambda seq: progress(seq, size))


def _walk_together(path: Path, size: int, watched: Sequence[int], contents: bool, processes: int, progress: Progress) -> Stretch | None:
    """The walk by several processes; None when records are missing, so that it must be done in one piece."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # a copy of this program starts at once; it never touches the connection it is born with, and needs no other thread
    can_fork = sys.platform == "linux" and threading.active_count() == 1
    starts = range(1, size + 1, STRETCH)
    with ProcessPoolExecutor(min(processes, len(starts)), multiprocessing.get_context("fork" if can_fork else "spawn")) as pool:
        jobs = [pool.submit(walk_file, path, first, min(first + STRETCH - 1, size), watched, contents) for first in starts]
        try:
            whole = jobs[0].result()
            for job in jobs[1:]:
                progress(whole.last, size)
                later = job.result()
                if not (whole.is_whole and later.is_whole):
                    return None
                whole.follow(later)
        finally:
            for job in jobs:
                job.cancel()
    progress(size, size)
    return whole


def _too_short(point: Checkpoint, name: str, database: Path | None, size: int) -> Problem:
    """A checkpoint covers more than there is: the log was cut, unless this is an older copy in another place."""
    copied = point.database not in ("", str(database.absolute()) if database else "")
    cause = "this is an older copy" if copied else "it was cut"
    message = f"{name} covers {point.size} records, but the log has only {size}: {cause}"
    return Problem("checkpoint", message, tampered=not copied)


def _compare_roots(found: Stretch, roots: dict[int, list[tuple[bytes, str]]], edges: dict[int, bytes], report: Report) -> None:
    for size, hashes in sorted(found.edges.items()):
        if size in roots:
            root = found.root_at(size)
            for expected, name in roots[size]:
                if root != expected:
                    report.add(Problem("checkpoint", f"the first {size} records are not those that {name} vouches for", size))
        if size in edges and edges[size] != b"".join(hashes):
            report.add(Problem("tree", f"the kept tree of the first {size} records is not theirs", size))


def _compare_erasures(found: Stretch, connection: sqlite3.Connection, report: Report) -> None:
    """Every erasure must be said by a redact record, and what such a record says must have happened."""
    report.erased = len(found.erased)
    redacted = found.redacted | _redacted_since(connection, report.size)
    for (seq, part), redaction in found.erased.items():
        if redacted.get((seq, part)) != redaction:
            report.add(Problem("erasure", f"the {part} was deleted, but record {redaction} does not say so", seq))
    for (seq, part), redaction in found.redacted.items():
        if (seq, part) not in found.erased and seq <= report.size:
            row = connection.execute("SELECT 1 FROM erased WHERE seq = ? AND part = ?", (seq, part)).fetchone()
            if row is None:
                report.add(Problem("erasure", f"record {redaction} erased the {part}, but it is still kept", seq))


def _redacted_since(connection: sqlite3.Connection, size: int) -> dict[tuple[int, str], int]:
    """What was erased while the walk went on."""
    out: dict[tuple[int, str], int] = {}
    for seq, text in connection.execute("SELECT seq, record FROM ledger WHERE seq > ? AND kind = 'redact'", (size,)).fetchall():
        out |= {(int(at), str(part)): seq for at, part in canonical.loads(text)["erases"]}
    return out


def _compare_projections(found: Stretch, connection: sqlite3.Connection, report: Report) -> None:
    """What only repeats the records must repeat them rightly."""
    if connection.execute("SELECT max(seq) FROM ledger").fetchone()[0] != report.size:
        return  # somebody is writing: the projections are already ahead
    for name in found.tally.differences(connection):
        report.add(Problem("projection", f"the table {name} does not repeat the records", tampered=False))
    closed = connection.execute("SELECT count(*) FROM ledger WHERE kind IN ('output', 'interrupted')").fetchone()[0]
    indexed = connection.execute("SELECT count(*) FROM fts_docsize").fetchone()[0]
    # closed turns that have neither prompt nor reply any more: nothing of them is indexed
    wiped = connection.execute(
        """SELECT count(*) FROM erased e JOIN ledger l USING (seq) WHERE e.part = 'reply' AND EXISTS (
          SELECT 1 FROM ledger i JOIN erased p ON p.seq = i.seq AND p.part = 'prompt'
          WHERE i.turn = l.turn AND i.kind = 'intent')"""
    ).fetchone()[0]
    if indexed != closed - wiped:
        report.add(Problem("projection", f"the search index holds {indexed} turns of {closed - wiped}", tampered=False))
