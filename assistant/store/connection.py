"""Opening a ledger file safely, and saying in one sentence why it cannot be opened.

A file that is no ledger, is damaged, or was written by a newer version is recognised from its first bytes and never
touched. One file, readable anywhere: journal mode TRUNCATE with synchronous EXTRA, the cheapest pair that lost no
acknowledged turn in rebuilt power failures. Freed pages are overwritten (`secure_delete`), so that erasing erases.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sqlite_utils import Database
from sqlite_utils.utils import sqlite3 as driver  # type: ignore[attr-defined]  # a newer SQLite, where one is installed

from assistant.errors import LedgerError
from assistant.store.migrations import APPLICATION_ID, newest_version

__all__ = ["as_database", "connect", "driver", "explain", "inspect_header", "translated"]

BUSY_SECONDS = 15.0
_MAGIC = b"SQLite format 3\x00"
_OLDEST_SQLITE = (3, 38)  # the operator ->>


def connect(path: Path | None, *, read_only: bool, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection to the ledger at `path` (None: in memory). Raises LedgerError; the file is untouched then."""
    if tuple(driver.sqlite_version_info) < _OLDEST_SQLITE:
        raise LedgerError(f"SQLite {driver.sqlite_version} is too old for the log: install 3.38 or newer, or pysqlite3")
    if path is None:
        target, uri = ":memory:", False
    elif read_only:
        if not path.exists():
            raise LedgerError(f"there is no log at {path}: name another with --db, or have a conversation first")
        inspect_header(path)
        _finish_cut_off_write(path)
        target, uri = f"{path.absolute().as_uri()}?mode=ro", True
    else:
        _prepare(path)
        target, uri = str(path), False
    with translated(path):
        connection: sqlite3.Connection = driver.connect(
            target, uri=uri, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            _configure(connection, read_only)
        except BaseException:
            connection.close()
            raise
    return connection


def as_database(connection: sqlite3.Connection) -> Database:
    """The same connection for sqlite-utils; its plugins stay out of the log."""
    return Database(connection, execute_plugins=False)


@contextlib.contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """Turns every SQLite or file error inside into a LedgerError that says what to do next."""
    name = "the log in memory" if path is None else f"the log {path}"
    try:
        yield
    except (sqlite3.Error, driver.Error) as error:
        raise LedgerError(explain(error, name)) from error
    except OSError as error:
        raise LedgerError(f"{name} cannot be used: {error.strerror or error}") from error


def explain(error: Exception, name: str) -> str:
    """The sentence for a SQLite error."""
    text, code = str(error), getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "is locked" in text:
        return f"{name} is locked by another program: wait until it has finished, or close it, and try again"
    if code.startswith("SQLITE_FULL") or "is full" in text:
        return f"the disk is full, so {name} cannot be written: free some space and try again (nothing logged was lost)"
    if code.startswith("SQLITE_READONLY") or "readonly" in text:
        return f"{name} cannot be written: the file or its folder is read-only; change that, or use another --db"
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in text or "not a database" in text:
        return f"{name} is damaged ({text}): keep a copy, then see `pellucid audit doctor` or restore a backup"
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")) or "unable to open" in text:
        return f"{name} cannot be opened: check that its folder exists and that you may read and write it"
    if code.startswith("SQLITE_IOERR") or "disk I/O" in text:
        return f"{name} cannot be read or written ({text}): check the disk, then run `pellucid audit verify`"
    return f"{name} refused the operation ({text}): run `pellucid audit verify`"


def inspect_header(path: Path) -> None:
    """Raises LedgerError when the file is no ledger of ours, is cut short, or belongs to a newer version."""
    with translated(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise LedgerError(f"{path} is not a file: name another log with --db")
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    hot = any(_side_file(path, suffix) for suffix in ("-journal", "-wal"))
    if not header.startswith(_MAGIC):
        if not header or (hot and not header.strip(b"\x00")):
            return  # empty, or the very first write was cut off: SQLite rolls it back
        raise LedgerError(f"{path} is not a Pellucid log (or is encrypted): it was left as it is; name another with --db")
    version, application = _number(header, 60), _number(header, 68)
    if application != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program: it was left as it is; name another log with --db")
    if version > newest_version():
        raise LedgerError(
            f"{path} was written by a newer Pellucid (schema {version}, this one knows {newest_version()}): "
            "it was left as it is; update Pellucid"
        )
    page = int.from_bytes(header[16:18], "big")
    if not hot and size < _number(header, 28) * (65536 if page == 1 else page):
        raise LedgerError(f"{path} is damaged: it is cut short; it was left as it is; restore a backup")


def _prepare(path: Path) -> None:
    """The folder (0700 when it is made here) and the file (0600) exist afterwards."""
    with translated(path):
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            inspect_header(path)
            if os.name == "posix" and path.stat().st_mode & 0o077 and path.stat().st_uid == os.geteuid():
                path.chmod(0o600)
        else:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _finish_cut_off_write(path: Path) -> None:
    """Roll back what a program that died left half written, as SQLite does for any reader who may write the file.

    A reader who may not is told by SQLite that the file is read-only.
    """
    if _side_file(path, "-journal") and os.access(path, os.W_OK):
        with translated(path), contextlib.closing(driver.connect(path, timeout=BUSY_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _configure(connection: sqlite3.Connection, read_only: bool) -> None:
    settings: dict[str, Any] = {"cell_size_check": "ON", "mmap_size": 0, "foreign_keys": "ON"}
    if _json_is_innocuous():
        settings["trusted_schema"] = "OFF"
    if read_only:
        settings["query_only"] = "ON"
    for name, value in settings.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()
    if not read_only:
        mode = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()[0]
        assert mode in ("truncate", "memory"), mode
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        connection.execute("PRAGMA recursive_triggers = ON")  # REPLACE then fires the delete guards


@cache
def _json_is_innocuous() -> bool:
    """Whether this SQLite lets generated columns read JSON while it distrusts the schema (some builds do not)."""
    with contextlib.closing(driver.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE probe (a TEXT, b TEXT AS (json_extract(a, '$.b')))")
        except driver.OperationalError:
            return False
    return True


def _side_file(path: Path, suffix: str) -> bool:
    side = path.with_name(path.name + suffix)
    return side.exists() and side.stat().st_size > 0


def _number(header: bytes, offset: int) -> int:
    return int.from_bytes(header[offset : offset + 4], "big")
