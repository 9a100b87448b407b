"""Checkpoints: one short text that pins down the whole log at one size, kept in the log and in a file outside it.

The text is a C2SP checkpoint (origin, size, root). Whoever keeps it, on paper or in another house, can later show that
the first `size` records are still the same; `audit verify` compares the log with the file outside by itself.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant import paths
from assistant.errors import LedgerError

ORIGIN = "pellucid.local/"
"""Followed by the log's own random name."""
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed a checkpoint, and how: `ssh` (an OpenSSH signature) or `ed25519` (a line of a C2SP signed note)."""

    method: str
    signer: str
    text: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root of a log at one size."""

    log: str
    size: int
    root: bytes
    ts: int = 0
    """When it was made, in microseconds since 1970."""
    signatures: tuple[Signature, ...] = ()
    database: str = field(default="", compare=False)
    """The file that held the log then, as far as that is known."""

    @property
    def note(self) -> str:
        """The text that is kept and signed."""
        return f"{ORIGIN}{self.log}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @property
    def signed_note(self) -> str:
        """The text with its native signature lines, as C2SP readers take it."""
        return self.note + "\n" + "".join(s.text for s in self.signatures if s.method == "ed25519")

    def to_dict(self) -> dict[str, Any]:
        """The checkpoint under its public JSON names."""
        return {
            "note": self.note,
            "ts": self.ts,
            "signatures": [{"method": s.method, "signer": s.signer, "text": s.text} for s in self.signatures],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Checkpoint:
        """The inverse of `to_dict`. Raises ValueError on anything else."""
        try:
            signatures = tuple(Signature(str(s["method"]), str(s["signer"]), str(s["text"])) for s in data.get("signatures", ()))
            point = parse_note(str(data["note"]))
            database = str(data.get("database", ""))
            return replace(point, ts=int(data.get("ts", 0)), signatures=signatures, database=database)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no checkpoint ({error!r})") from error


def parse_note(text: str) -> Checkpoint:
    """The checkpoint that a note states; signature lines are kept. Raises ValueError when it is none."""
    body, _, tail = text.partition("\n\n")
    lines = body.strip("\n").split("\n")
    if len(lines) < 3 or not lines[0].startswith(ORIGIN):
        raise ValueError("this is no checkpoint of a Pellucid log")
    if not lines[1].isascii() or not lines[1].isdigit() or len(lines[1]) > 18 or str(int(lines[1])) != lines[1]:
        raise ValueError("the checkpoint has no size")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError as error:
        raise ValueError("the checkpoint has no root") from error
    if len(root) != 32:
        raise ValueError("the checkpoint's root is not a SHA-256 hash")
    found = [line for line in tail.split("\n") if line.startswith("— ")]
    signatures = tuple(Signature("ed25519", line.split(" ")[1], line + "\n") for line in found)
    return Checkpoint(lines[0].removeprefix(ORIGIN), int(lines[1]), root, signatures=signatures)


def outside_file(log: str) -> Path:
    """Where the checkpoints of a log are kept outside it."""
    return paths.state_dir() / "checkpoints" / f"{log}.jsonl"


def keep_outside(checkpoint: Checkpoint, database: Path | None) -> Path:
    """Add a checkpoint to the file outside the log, durably. Raises LedgerError when that cannot be written."""
    path = outside_file(checkpoint.log)
    line = json.dumps({**checkpoint.to_dict(), "database": str(database.absolute()) if database else ""})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise LedgerError(f"the checkpoint cannot be kept in {path}: {error.strerror or error}") from error
    return path


def kept_outside(log: str) -> list[Checkpoint]:
    """The checkpoints of a log that are kept outside it, oldest first."""
    path = outside_file(log)
    return read_checkpoints(path) if path.exists() else []


def stood_here(database: Path, log: str) -> list[str]:
    """The names of other logs that this database file held according to their checkpoints outside."""
    folder = outside_file(log).parent
    names: list[str] = []
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        if path.stem != log and any(entry.get("database") == str(database.absolute()) for entry in _entries(path)):
            names.append(path.stem)
    return names


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """The checkpoints in a file: a note as text, or one JSON object a line. Raises LedgerError when it holds none."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"the checkpoints in {path} cannot be read: {error}") from error
    try:
        if text.startswith(ORIGIN):
            return [parse_note(text)]
        return [Checkpoint.from_dict(entry) for entry in _entries(path)]
    except ValueError as error:
        raise LedgerError(f"{path} holds something that is no checkpoint: {error}") from error


def _entries(path: Path) -> list[Any]:
    out: list[Any] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if len(line) > _LONGEST_LINE:
                raise ValueError("a line is too long")
            if not line.endswith("\n"):
                break  # cut off while it was written: it never counted
            try:
                entry = json.loads(line)
            except RecursionError as error:
                raise ValueError("a line is nested too deeply") from error
            if not isinstance(entry, dict):
                raise ValueError("a line is no checkpoint")
            out.append(entry)
    return out
