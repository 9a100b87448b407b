"""What a file is, from its first bytes: SQLite never opens one that is no ledger of ours, so such a file stays untouched."""

from __future__ import annotations

import stat
from pathlib import Path

from assistant.errors import LedgerError
from assistant.store.driver import KEY_VARIABLE
from assistant.store.migrations import APPLICATION_ID, newest_version

_MAGIC = b"SQLite format 3\x00"


def inspect(path: Path, *, encrypted: bool = False) -> None:
    """Raises LedgerError when the file is no ledger, is cut short, or belongs to a newer version. OSError passes."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise LedgerError(f"{path} is not a file: name another log with --db")
    with path.open("rb") as file:
        header = file.read(100)
    # in this order: another program may be writing, and its journal is gone only when all its pages are there
    hot = has_journal(path)
    size = path.stat().st_size
    if encrypted:
        if header.startswith(_MAGIC):
            raise LedgerError(f"{path} is not encrypted: unset {KEY_VARIABLE}, or make an encrypted copy with `pellucid audit encrypt`")
        return  # nothing else can be seen without the key
    if not header.startswith(_MAGIC):
        if not header or (hot and not header.strip(b"\x00")):
            return  # empty, or the very first write was cut off: SQLite rolls it back
        message = f"{path} is not a Pellucid log (or is encrypted: set {KEY_VARIABLE}): it was left as it is; name another with --db"
        raise LedgerError(message)
    check_identity(path, _number(header, 68), _number(header, 60))
    page = int.from_bytes(header[16:18], "big")
    if not hot and size < _number(header, 28) * (65536 if page == 1 else page):
        raise LedgerError(f"{path} is damaged: it is cut short; it was left as it is; restore a backup")


def check_identity(path: Path, application: int, version: int) -> None:
    """Raises LedgerError when application id and schema version are not those of a ledger that this program knows."""
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program: it was left as it is; name another log with --db")
    if version > newest_version():
        known = f"(schema {version}, this one knows {newest_version()})"
        raise LedgerError(f"{path} was written by a newer Pellucid {known}: it was left as it is; update Pellucid")


def has_journal(path: Path) -> bool:
    """Whether a write is going on, or was cut off."""
    for suffix in ("-journal", "-wal"):
        try:
            if path.with_name(path.name + suffix).stat().st_size > 0:
                return True
        except FileNotFoundError:
            continue
    return False


def _number(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 4], "big")
