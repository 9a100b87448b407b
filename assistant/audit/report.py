"""What a verification found, and how it ends: with exit code 0, 1 or 4."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Where = Literal[
    "record",  # a record does not have its hash, number or form
    "chain",  # a record does not follow its predecessor
    "tree",  # a kept root or right edge is not that of the records
    "content",  # a text is not the one the record vouches for, or is missing
    "erasure",  # an erasure is not what a redact record says
    "schema",  # a table, index or trigger is not as registered
    "checkpoint",  # a checkpoint does not match the log, or its signature does not match the checkpoint
    "projection",  # a table that only repeats the records repeats them wrongly
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be."""

    where: Where
    message: str
    seq: int | None = None
    """The record concerned."""
    tampered: bool = True
    """False: nothing that was logged is affected, and `pellucid audit doctor --repair` can mend it."""

    def to_dict(self) -> dict[str, Any]:
        """The problem under its public JSON names."""
        return {"where": self.where, "seq": self.seq, "message": self.message, "tampered": self.tampered}


@dataclass(slots=True)
class Report:
    """The result of a verification."""

    log: str = ""
    """The log's own random name."""
    size: int = 0
    root: str = ""
    turns: int = 0
    contents: int = 0
    """How many texts were compared with their commitments."""
    erased: int = 0
    checkpoints: int = 0
    problems: list[Problem] = field(default_factory=list)
    left_out: int = 0
    """Problems beyond the first thousand."""

    def add(self, problem: Problem) -> None:
        """Note a problem; only so many are kept."""
        if len(self.problems) < 1000:
            self.problems.append(problem)
        else:
            self.left_out += 1

    @property
    def exit_code(self) -> int:
        """0: all is well. 1: something can be mended. 4: the log is not what was written."""
        if any(problem.tampered for problem in self.problems):
            return 4
        return 1 if self.problems else 0

    @property
    def outcome(self) -> str:
        """`ok`, `findings` or `tampered`."""
        return {0: "ok", 1: "findings", 4: "tampered"}[self.exit_code]

    def to_dict(self) -> dict[str, Any]:
        """The report under its public JSON names."""
        return {
            "outcome": self.outcome,
            "log": self.log,
            "size": self.size,
            "root": self.root,
            "turns": self.turns,
            "contents": self.contents,
            "erased": self.erased,
            "checkpoints": self.checkpoints,
            "problems": [problem.to_dict() for problem in self.problems],
            "left_out": self.left_out,
        }
