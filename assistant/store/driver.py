"""Which SQLite is used: Python's own, a newer one where it is installed, or SQLCipher for a log that is encrypted.

A log is encrypted when the environment variable `PELLUCID_LEDGER_KEY` holds a passphrase (extra `encrypt`). The passphrase
is never written anywhere; without it the log is lost.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import Any

import sqlite_utils.utils

from assistant.errors import LedgerError

newest: Any = sqlite_utils.utils.sqlite3  # type: ignore[attr-defined]
"""Python's own SQLite, or pysqlite3 where that is installed."""
KEY_VARIABLE = "PELLUCID_LEDGER_KEY"
OLDEST = (3, 38)  # the operator ->>


def key_in_force() -> str:
    """The passphrase for logs that are files; empty when they are not encrypted."""
    return os.environ.get(KEY_VARIABLE, "")


def module(key: str) -> Any:
    """The database module for a passphrase (empty: none). Raises LedgerError when it is missing or too old."""
    if key:
        try:
            from sqlcipher3 import dbapi2
        except ImportError as error:
            message = f"{KEY_VARIABLE} is set, but encryption needs the extra: pip install 'pellucid[encrypt]'"
            raise LedgerError(message) from error
        return dbapi2
    if tuple(newest.sqlite_version_info) < OLDEST:
        raise LedgerError(f"SQLite {newest.sqlite_version} is too old for the log: install 3.38 or newer, or pysqlite3")
    return newest


def open_file(target: Any, key: str = "", **options: Any) -> sqlite3.Connection:
    """A plain connection, with the passphrase given where there is one."""
    connection: sqlite3.Connection = module(key).connect(target, isolation_level=None, **options)
    if key:
        connection.execute("PRAGMA cipher_log = off").fetchall()  # what goes wrong is said by us, once
        connection.execute("PRAGMA key = '{}'".format(key.replace("'", "''")))
    return connection


def errors() -> tuple[type[Exception], ...]:
    """What the database modules in use raise."""
    cipher = sys.modules.get("sqlcipher3.dbapi2")
    return (sqlite3.Error, newest.Error, *((cipher.Error,) if cipher is not None else ()))


def value_errors() -> tuple[type[Exception], ...]:
    """What they raise for values that a table does not take."""
    cipher = sys.modules.get("sqlcipher3.dbapi2")
    modules = [sqlite3, newest, *([cipher] if cipher is not None else [])]
    return tuple(error for module in modules for error in (module.IntegrityError, module.ProgrammingError, module.InterfaceError))


def version_of(connection: sqlite3.Connection) -> tuple[int, ...]:
    """The version of the SQLite behind a connection."""
    return tuple(int(n) for n in connection.execute("SELECT sqlite_version()").fetchone()[0].split("."))
