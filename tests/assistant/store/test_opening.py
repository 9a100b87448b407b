"""Files that are no ledger, or cannot be used: one clear sentence, exit code 3, and the file as it was."""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from assistant import paths
from assistant.errors import LedgerError
from assistant.store.connection import PAGE_BYTES
from assistant.store.driver import newest as sqlite3
from assistant.store.ledger import Ledger

from .conftest import log_turn
from .factory import make_turn


def files(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def refused(path: Path, message: str) -> None:
    """Opening for reading and for writing both fail with `message`, and nothing in the folder changes."""
    before = files(path.parent)
    for read_only in (True, False):
        with pytest.raises(LedgerError, match=message) as caught:
            Ledger.open(path, read_only=read_only)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    assert files(path.parent) == before


@pytest.fixture
def filled(path: Path) -> Path:
    with Ledger.open(path) as ledger:
        for _ in range(40):
            log_turn(ledger)
    for side in path.parent.glob("*-journal"):
        side.unlink()
    return path


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database\n" * 100)
    refused(path, "is not a Pellucid log")


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(os.urandom(50_000))
    refused(path, "is not a Pellucid log")


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE ledger (seq INTEGER)")
    connection.close()
    refused(path, "database of another program")


def test_a_newer_ledger(filled: Path) -> None:
    connection = sqlite3.connect(filled)
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()
    refused(filled, "written by a newer Pellucid")


def test_cut_short(filled: Path) -> None:
    os.truncate(filled, filled.stat().st_size // 2)
    refused(filled, "cut short")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError, match="is not a file"):
        Ledger.open(tmp_path / "folder")


def test_nothing_to_audit(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no log at"):
        Ledger.open(path, read_only=True)
    assert not path.parent.exists()


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(LedgerError, match="nothing in the log"):
        Ledger.open(path, read_only=True)
    with Ledger.open(path) as ledger:
        log_turn(ledger)


def test_garbage_in_the_middle(filled: Path) -> None:
    """A page of rubbish is found when it is read, and reported as damage."""
    with filled.open("r+b") as file:
        for page in range(3, filled.stat().st_size // PAGE_BYTES):
            file.seek(PAGE_BYTES * page)
            file.write(b"\xff" * 512)
    with pytest.raises(LedgerError, match="damaged"), Ledger.open(filled, read_only=True) as ledger:
        ledger.query("SELECT count(record), max(length(record)) FROM ledger NOT INDEXED")
        ledger.list_turns(limit=1000)


def test_locked_by_another_program(filled: Path) -> None:
    other = sqlite3.connect(filled, isolation_level=None)
    with Ledger.open(filled, timeout=0.05) as ledger:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked by another program"):
            ledger.open_turn(make_turn())
        other.execute("ROLLBACK")
        log_turn(ledger)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="locked by another program"):
        Ledger.open(filled, timeout=0.05)
    other.close()


def test_a_reply_that_cannot_be_written_is_kept_and_tried_again(filled: Path) -> None:
    other = sqlite3.connect(filled, isolation_level=None)
    turn = make_turn()
    with Ledger.open(filled, timeout=0.05) as ledger:
        ledger.open_turn(turn)
        other.execute("BEGIN IMMEDIATE")
        ledger.journal(turn.id, "x", turn.tokens[:1])  # reported, not raised
        with pytest.raises(LedgerError, match="kept in memory"):
            ledger.close_turn(turn)
        other.execute("ROLLBACK")
        log_turn(ledger)  # takes the other one along
        assert ledger.turn(turn.id) == turn
    other.close()


def test_a_reply_that_could_not_be_written_is_written_at_the_end(filled: Path) -> None:
    other = sqlite3.connect(filled, isolation_level=None)
    turn = make_turn()
    with Ledger.open(filled, timeout=0.05) as ledger:
        ledger.open_turn(turn)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError):
            ledger.close_turn(turn)
        other.execute("ROLLBACK")
    other.close()
    with Ledger.open(filled, read_only=True) as ledger:
        assert ledger.turn(turn.id) == turn


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_only_the_owner_can_read_it(path: Path) -> None:
    mask = os.umask(0)
    try:
        with Ledger.open(path) as ledger:
            log_turn(ledger)
            modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
            assert set(modes.values()) == {0o600}, modes
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o644)
        Ledger.open(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        own = paths.data_dir() / "ledger.db"
        own.parent.mkdir(parents=True, exist_ok=True)
        for folder in (own.parent, path.parent):
            folder.chmod(0o755)
        for place in (own, path):
            Ledger.open(place).close()
        assert stat.S_IMODE(own.parent.stat().st_mode) == 0o700  # the program's own folder
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755  # somebody else's: only `audit doctor` says so
    finally:
        os.umask(mask)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_folder(filled: Path) -> None:
    filled.parent.chmod(0o500)
    try:
        with Ledger.open(filled, read_only=True) as ledger:
            assert ledger.list_turns(limit=1)
        with pytest.raises(LedgerError):
            Ledger.open(filled.with_name("new.db"))
    finally:
        filled.parent.chmod(0o700)


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b\n?%#\x1b日志" / "l?mode=memory.db"
    with Ledger.open(path) as ledger:
        turn = log_turn(ledger)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.turn(turn.id) == turn


def test_a_schema_that_is_no_text(filled: Path) -> None:
    """SQLite repeats the damaged text in what it says about it: that sentence is no UTF-8 either."""
    filled.write_bytes(filled.read_bytes().replace(b"CREATE INDEX ledger_kind", b"CREATE \xa0NDEX ledger_kind"))
    before = files(filled.parent)
    with pytest.raises(LedgerError, match="is damaged") as caught, Ledger.open(filled, read_only=True) as ledger:
        ledger.query("SELECT count(*) FROM ledger")
    assert caught.value.exit_code == 3 and files(filled.parent) == before
    with pytest.raises(LedgerError, match="is damaged"):
        Ledger.open(filled)
