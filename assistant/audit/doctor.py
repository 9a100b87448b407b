"""The health of the log as a file: who may read it, in which mode it is written, what dead programs left, what can
be mended.
"""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from assistant import paths
from assistant.audit.export.target import remove
from assistant.errors import LedgerError
from assistant.store import bulk, driver, recovery
from assistant.store.ledger import Ledger
from assistant.store.migrations import newest_version

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The check under its public JSON names."""
        return asdict(self)


def examine(ledger: Ledger) -> list[Check]:
    """Look at file modes, journal, SQLite, schema, structure, open turns and stray files. Changes nothing."""
    assert ledger.path is not None
    checks = [
        _sqlite(ledger),
        _journal(ledger),
        _schema(ledger),
        *_modes(ledger.path),
        _structure(ledger),
        _left_open(ledger),
    ]
    return [*checks, *_stray_files(ledger.path), _outside()]


def repair(ledger: Ledger) -> list[str]:
    """Recover open turns, make everything that only repeats the records anew, close the file modes. What was done."""
    assert ledger.path is not None
    done: list[str] = []
    if turns := ledger.recover():
        done.append(f"closed {len(turns)} turns that dead programs left open")
    with ledger.transaction(), ledger.exclusive() as connection:
        bulk.rebuild(connection)
    done.append("made the search index and the counts anew")
    with ledger.exclusive() as connection:
        connection.execute("REINDEX ledger")
        connection.execute("VACUUM")
    done.append("wrote the file anew: nothing erased is left in unused corners")
    if os.name == "posix":
        for path in (ledger.path, *_side_files(ledger.path)):
            path.chmod(0o600)
    return done


def backup(ledger: Ledger, target: Path) -> int:
    """Copy the log while it is in use, and check the copy. Returns its size in bytes. Raises LedgerError."""
    if target.exists():
        raise LedgerError(f"{target} exists already: choose another name for the backup")
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        copy = driver.open_file(draft, driver.key_in_force())
        try:
            with ledger.exclusive() as connection:
                try:
                    connection.backup(copy)
                except driver.errors() as error:
                    raise LedgerError(f"{target} could not be written ({error}): free some space or use another place") from error
            if (found := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise LedgerError(f"the copy is damaged ({found}): run `pellucid audit doctor` on the log")
        finally:
            copy.close()
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    except OSError as error:
        raise LedgerError(f"{target} could not be written ({error}): free some space or use another place") from error
    except driver.errors() as error:
        raise LedgerError(f"{target} could not be written ({error}): free some space or use another place") from error
    finally:
        remove(draft)
    return target.stat().st_size


def _sqlite(ledger: Ledger) -> Check:
    with ledger.exclusive() as connection:
        version = driver.version_of(connection)
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    wal = "" if fixed else "; its WAL mode can damage a database, so the log does not use it"
    encrypted = "; the log is encrypted" if driver.key_in_force() else ""
    return Check("sqlite", "ok", f"SQLite {'.'.join(map(str, version))}{wal}{encrypted}")


def _journal(ledger: Ledger) -> Check:
    mode = ledger.query("PRAGMA journal_mode")[0][0]
    if mode == "wal":
        return Check("journal", "note", "the file is in WAL mode; the next program that writes changes that")
    return Check("journal", "ok", "rollback journal (TRUNCATE, EXTRA): what was acknowledged survives a power failure")


def _schema(ledger: Ledger) -> Check:
    version = ledger.query("PRAGMA user_version")[0][0]
    if version < newest_version():
        return Check("schema", "note", f"version {version}; the next program that writes updates it to {newest_version()}")
    return Check("schema", "ok", f"version {version}")


def _modes(path: Path) -> list[Check]:
    if os.name != "posix":
        return []
    checks = []
    for file in (path, *_side_files(path)):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            checks.append(Check("mode", "problem", f"{file} can be read by others ({mode:04o}): chmod 600"))
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    if mode & 0o077:
        inside: State = "problem" if path.parent == paths.data_dir() else "note"
        checks.append(Check("mode", inside, f"others can look into the folder {path.parent} ({mode:04o}): chmod 700"))
    return checks or [Check("mode", "ok", "only you can read the log and its folder")]


def _structure(ledger: Ledger) -> Check:
    rows = [row[0] for row in ledger.query("PRAGMA integrity_check(5)")]
    if rows == ["ok"]:
        return Check("structure", "ok", "pages and indexes are sound")
    return Check("structure", "problem", f"damaged: {'; '.join(rows)[:300]}; keep a copy, then try --repair or a backup")


def _left_open(ledger: Ledger) -> Check:
    with ledger.exclusive() as connection:
        dead = recovery.abandoned(connection, ledger.path, "")
        living = connection.execute("SELECT count(*) FROM opened").fetchone()[0] - len(dead)
    if dead:
        return Check("open turns", "note", f"{len(dead)} were cut off: the next start of pellucid closes them")
    return Check("open turns", "ok", f"{living} being written now")


def _stray_files(path: Path) -> list[Check]:
    drafts = sorted(file.name for file in path.parent.glob(f".{path.name}.*.part"))
    return [Check("files", "note", f"an unfinished copy was left behind: remove {name}") for name in drafts]


def _outside() -> Check:
    folder = paths.state_dir() / "checkpoints"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        return Check("checkpoints", "problem", f"{folder} cannot be written, so none are kept outside the log")
    return Check("checkpoints", "ok", f"kept outside the log in {folder}")


def _side_files(path: Path) -> list[Path]:
    return [side for suffix in ("-journal", "-wal", "-shm") if (side := path.with_name(path.name + suffix)).exists()]
