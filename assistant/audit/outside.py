"""What is known about a log from outside it: the checkpoints kept in the user's state folder, and those an auditor
brings.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from assistant.audit.report import Problem, Report
from assistant.audit.signing import is_signed_by
from assistant.errors import LedgerError
from assistant.store.checkpoint import Checkpoint, Signature, kept_outside, outside_file, read_checkpoints, stood_here
from assistant.store.ledger import Ledger

Known = list[tuple[Checkpoint, str]]
"""Checkpoints, and what to call each in a message."""


def collect(log: str, database: Path | None, files: Iterable[Path], report: Report, *, kept: bool = True) -> Known:
    """All checkpoints from outside; what is wrong with them goes into the report."""
    known: Known = []
    try:
        known += [(point, "the checkpoint kept outside the log") for point in kept_outside(log)] if log and kept else []
        others = stood_here(database, log) if database is not None else []
    except (LedgerError, ValueError, OSError) as error:
        report.add(Problem("checkpoint", f"the checkpoints kept outside cannot be read: {error}", tampered=False))
        others = []
    for other in others:
        message = f"another log stood in this file: see {outside_file(other)}; delete that if you removed the log yourself"
        report.add(Problem("checkpoint", message, tampered=False))
    for path in files:
        for point in read_checkpoints(path):
            known.append((point, f"the checkpoint in {path.name}"))
            if point.log != log:
                report.add(Problem("checkpoint", f"the checkpoint in {path.name} belongs to another log ({point.log})"))
    return [(point, name) for point, name in known if point.log == log]


def kept_inside(ledger: Ledger, report: Report) -> list[Checkpoint]:
    """The checkpoints in the log with their signatures; a note that does not say what its row says is reported."""
    points: list[Checkpoint] = []
    signatures: dict[int, list[Signature]] = {}
    for size, method, signer, text in ledger.query("SELECT size, method, signer, signature FROM signature"):
        signatures.setdefault(size, []).append(Signature(method, signer, text))
    for size, root, note, ts in ledger.query("SELECT size, root, note, ts FROM checkpoint ORDER BY size"):
        point = Checkpoint(report.log, size, root, ts, tuple(signatures.get(size, ())))
        if point.note != note:
            report.add(Problem("checkpoint", f"the note of the checkpoint at {size} records was changed", size))
        points.append(point)
    return points


def check_signatures(points: Iterable[Checkpoint], key: Path, report: Report) -> None:
    """Every signed checkpoint must be signed by `key`, and at least one must be."""
    signed = [point for point in points if point.signatures]
    unsigned = [point.size for point in signed if not is_signed_by(point, key)]
    for size in dict.fromkeys(unsigned):  # the same checkpoint is kept in the log and outside it
        report.add(Problem("checkpoint", f"the checkpoint of {size} records is not signed by the key in {key.name}", size))
    if not signed:
        message = "no checkpoint is signed: run `pellucid audit checkpoint --sign KEY`"
        report.add(Problem("checkpoint", message, tampered=False))
