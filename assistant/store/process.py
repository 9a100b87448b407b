"""Which program is writing a turn, and whether it still lives.

Each open ledger holds an operating-system lock on a small file beside the database. The system drops the lock when the
program dies, however it dies, and a reused process number cannot take it over: whoever obtains the lock knows that the
owner is gone. Where files cannot be locked, process number, start time and boot decide.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_STARTED = time.time_ns()


@dataclass(frozen=True, slots=True)
class Process:
    """One program that has the ledger open."""

    id: str
    pid: int
    started: str
    """Boot and start time, so that a later process with the same number is not mistaken for this one."""


class Presence:
    """The sign that this program is alive: from construction to `leave`."""

    def __init__(self, database: Path | None) -> None:
        self.process = Process(uuid.uuid4().hex, os.getpid(), start_of(os.getpid()))
        self._file: int | None = None
        self._path = None if database is None else sign_path(database, self.process.id)
        if self._path is not None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            if _try_lock(self._file) is False or not self._path.exists():
                # whoever tidies up took it for a dead program's in the instant before it was locked
                os.close(self._file)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
                _try_lock(self._file)

    def leave(self) -> None:
        """Take the sign away."""
        if self._file is not None and self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            os.close(self._file)
            self._file = None


def sign_path(database: Path, process: str) -> Path:
    """The file whose lock says that `process` is alive."""
    return database.with_name(f"{database.name}.live-{process}")


def is_alive(database: Path | None, process: Process) -> bool:
    """Whether the program that had the ledger open as `process` still runs with it. Removes the sign of a dead one."""
    if database is None:
        return False
    path = sign_path(database, process.id)
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False  # it closed the ledger in good order
    except OSError:
        return _runs(process)
    try:
        locked = _try_lock(file)
        if locked is None:
            return _runs(process)
        if locked:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return not locked
    finally:
        os.close(file)


def tidy(database: Path | None) -> None:
    """Remove the signs of programs that died without leaving a turn open."""
    for path in database.parent.glob(f"{database.name}.live-*") if database is not None else ():
        is_alive(database, Process(path.name.rpartition("-")[2], 0, ""))


def start_of(pid: int) -> str:
    """Boot and start time of a running process as the system tells them; empty when it does not."""
    try:
        boot = _BOOT_FILE.read_text("ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return f"{boot}:{fields[19]}"
    except (OSError, IndexError):
        return f"unknown:{_STARTED}" if pid == os.getpid() else ""


def _runs(process: Process) -> bool:
    """The second-best answer: a process of that number with that start exists."""
    started = start_of(process.pid)
    if started or process.started.startswith("unknown:"):
        return started == process.started
    return False


def _try_lock(file: int) -> bool | None:
    """True: the lock is ours now. False: another holds it. None: files cannot be locked here."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK) else None
    return True
