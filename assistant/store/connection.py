"""Opening a ledger file safely, and saying in one sentence why it cannot be opened.

One file, readable anywhere: journal mode TRUNCATE with synchronous EXTRA, the cheapest pair that lost no acknowledged turn in
rebuilt power failures. Freed pages are overwritten (`secure_delete`), so that erasing erases.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from assistant import paths
from assistant.errors import LedgerError
from assistant.store import driver, header

BUSY_SECONDS = 15.0
PAGE_BYTES = 8192
"""Of a new log. The two records of a turn and its texts seldom fit into SQLite's usual 4,096: the file is a sixth smaller."""


def connect(path: Path | None, *, read_only: bool, timeout: float = BUSY_SECONDS, key: str | None = None) -> sqlite3.Connection:
    """A connection to the ledger at `path` (None: in memory). Raises LedgerError; the file is untouched then.

    `key` is the passphrase of an encrypted log, by default that of the environment; empty for none.
    """
    key = "" if path is None else driver.key_in_force() if key is None else key
    if path is None:
        target, uri = ":memory:", False
    elif read_only:
        if not path.exists():
            raise LedgerError(f"there is no log at {path}: name another with --db, or have a conversation first")
        with translated(path):
            header.inspect(path, encrypted=bool(key))
        _finish_cut_off_write(path, key)
        target, uri = f"{path.absolute().as_uri()}?mode=ro", True
    else:
        _prepare(path, key)
        target, uri = str(path), False
    with translated(path):
        connection = driver.open_file(target, key, uri=uri, timeout=timeout, check_same_thread=False, cached_statements=256)
        try:
            if key and path is not None:
                _check_key(connection, path)
            if not key and not read_only:  # an encrypted file has pages of its own kind
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that has none yet
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
    """Turns every SQLite or file error inside into a LedgerError that says what to do next.

    What SQLite says about a damaged schema repeats its text, which then may be no text at all.
    """
    name = "the log in memory" if path is None else f"the log {path}"
    try:
        yield
    except UnicodeDecodeError as error:
        raise LedgerError(_damaged(name, "it holds what is not UTF-8")) from error
    except driver.errors() as error:
        raise LedgerError(explain(error, name)) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise LedgerError(_read_only(name)) from error
        raise LedgerError(f"{name} cannot be used: {error.strerror or error}") from error


def explain(error: Exception, name: str) -> str:
    """The sentence for a SQLite error."""
    text, code = str(error), getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "is locked" in text:
        return f"{name} is locked by another program: wait until it has finished, or close it, and try again"
    if code.startswith("SQLITE_FULL") or "is full" in text:
        return f"the disk is full, so {name} cannot be written: free some space and try again (nothing logged was lost)"
    if code.startswith("SQLITE_READONLY") or "readonly" in text:
        return _read_only(name)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in text or "not a database" in text:
        return _damaged(name, text)
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")) or "unable to open" in text:
        return f"{name} cannot be opened: check that its folder exists and that you may read and write it"
    if code.startswith("SQLITE_IOERR") or "disk I/O" in text:
        return f"{name} cannot be read or written ({text}): check the disk, then run `pellucid audit verify`"
    return f"{name} refused the operation ({text}): run `pellucid audit verify`"


def _read_only(name: str) -> str:
    return f"{name} cannot be written: the file or its folder is read-only; change that, or name another with --db"


def _damaged(name: str, what: str) -> str:
    return f"{name} is damaged ({what}): keep a copy, then see `pellucid audit doctor` or restore a backup"


def _prepare(path: Path, key: str) -> None:
    """The folder (0700 when it is made here, or is the program's own) and the file (0600) exist afterwards."""
    with translated(path):
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif path.parent == paths.data_dir():
            _close_to_others(path.parent, 0o700)
        if path.exists():
            if not key or path.stat().st_size:
                header.inspect(path, encrypted=bool(key))
            _close_to_others(path, 0o600)
        else:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _close_to_others(path: Path, mode: int) -> None:
    """Take away what others may do with a file or folder of ours."""
    if os.name == "posix" and path.stat().st_mode & 0o077 and path.stat().st_uid == os.geteuid():
        path.chmod(mode)


def _check_key(connection: sqlite3.Connection, path: Path) -> None:
    """The first read tells whether the key fits; only then can it be seen whose file this is."""
    try:
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except driver.errors() as error:
        if "not a database" in str(error):
            message = f"{path} cannot be decrypted: {driver.KEY_VARIABLE} is not its passphrase, or it is no Pellucid log"
            raise LedgerError(message) from error
        raise
    if tables:
        application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        header.check_identity(path, application, version)


def _configure(connection: sqlite3.Connection, read_only: bool) -> None:
    # texts that are sorted or set aside stay in memory: no temporary file holds them in the clear
    settings: dict[str, Any] = {"temp_store": "MEMORY", "cell_size_check": "ON", "mmap_size": 0, "foreign_keys": "ON"}
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


def _finish_cut_off_write(path: Path, key: str) -> None:
    """Roll back what a program that died left half written, as SQLite does for any reader who may write the file.

    A reader who may not is told by SQLite that the file is read-only.
    """
    if header.has_journal(path) and os.access(path, os.W_OK):
        with translated(path), contextlib.closing(driver.open_file(path, key, timeout=BUSY_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


@cache
def _json_is_innocuous() -> bool:
    """Whether this SQLite lets generated columns read JSON while it distrusts the schema (some builds do not)."""
    with contextlib.closing(driver.open_file(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE probe (a TEXT, b TEXT AS (json_extract(a, '$.b')))")
        except driver.errors():
            return False
    return True
