"""What is known about a log from outside it: the checkpoints kept in the user's state folder, and those an auditor
brings.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from assistant.audit.report import Problem, Report
from assistant.errors import LedgerError
from assistant.store.checkpoint import Checkpoint, kept_outside, outside_file, read_checkpoints, stood_here

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
        message = (
            f"another log stood in this file: see {outside_file(other)}; delete that if you removed the log yourself"
        )
        report.add(Problem("checkpoint", message, tampered=False))
    for path in files:
        for point in read_checkpoints(path):
            known.append((point, f"the checkpoint in {path.name}"))
            if point.log != log:
                report.add(Problem("checkpoint", f"the checkpoint in {path.name} belongs to another log ({point.log})"))
    return [(point, name) for point, name in known if point.log == log]
