"""`audit doctor`, `backup` and `--log-access`."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant.cli.audit import audit
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import make_turn
from tests.assistant.store.test_recovery import kill, start_chat


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


@pytest.fixture
def db(path: Path) -> Path:
    with Ledger.open(path) as ledger:
        for _ in range(5):
            log_turn(ledger)
    return path


def test_a_healthy_log(db: Path) -> None:
    before = db.read_bytes()
    result = run("doctor", "--db", db)
    assert result.exit_code == 0 and "problem" not in result.stdout
    assert db.read_bytes() == before
    states = {check["name"]: check["state"] for check in json.loads(run("doctor", "--json", "--db", db).stdout)}
    assert states["structure"] == states["mode"] == states["checkpoints"] == "ok"


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_modes(db: Path) -> None:
    db.chmod(0o644)
    db.parent.chmod(0o755)
    result = run("doctor", "--db", db)
    assert result.exit_code == 1 and "can be read by others (0644)" in result.stdout
    assert run("doctor", "--repair", "--db", db).exit_code == 0
    assert db.stat().st_mode & 0o777 == 0o600


def test_repair_mends_what_only_repeats(db: Path) -> None:
    with sqlite3.connect(db, isolation_level=None) as c:
        c.execute("UPDATE counts SET turns = 99")
        c.execute("DELETE FROM conversation")
        c.execute("INSERT INTO fts (fts) VALUES ('delete-all')")
        c.execute("DELETE FROM frontier")
    assert run("verify", "--db", db).exit_code == 1
    assert run("search", "sunny", "--db", db).stdout == ""
    assert run("doctor", "--repair", "--db", db).exit_code == 0
    assert run("verify", "--db", db).exit_code == 0
    assert len(run("search", "sunny", "--db", db).stdout.splitlines()) == 5


def test_repair_closes_what_was_cut_off(path: Path) -> None:
    kill(start_chat(path))
    assert "1 were cut off" in run("doctor", "--db", path).stdout
    assert "closed 1 turns" in run("doctor", "--repair", "--db", path).stderr
    assert "今天天气" in run("show", "CUT", "--db", path).stdout


def test_backup_while_it_is_written(path: Path, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        log_turn(ledger)
        ledger.open_turn(make_turn(id="OPEN"))
        copy = tmp_path / "backup.db"
        assert run("backup", copy, "--db", path).exit_code == 0
        log_turn(ledger)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert run("verify", "--no-outside", "--db", copy).exit_code == 0
    result = run("verify", "--db", copy)  # the log went on after the copy
    assert result.exit_code == 1 and "older copy" in result.stdout
    assert "OPEN" in run("list", "--db", copy).stdout
    result = run("backup", copy, "--db", path)
    assert result.exit_code == 3 and "exists already" in result.stderr
    assert run("backup", tmp_path / "no" / "x.db", "--db", path).exit_code == 3


def test_access_is_logged_when_wanted(db: Path) -> None:
    size = len(Ledger.open(db, read_only=True).query("SELECT 1 FROM ledger"))
    run("list", "--db", db)
    run("search", "sunny", "--log-access", "--db", db)
    with Ledger.open(db, read_only=True) as ledger:
        records = [json.loads(text) for (text,) in ledger.query("SELECT record FROM ledger WHERE seq > ?", (size,))]
        assert [record["kind"] for record in records] == ["access", "checkpoint"]
        assert records[0]["command"] == "search" and records[0]["reader"] == ledger.pseudonym()
    assert run("list", "--log-access", "--db", db.with_name("none.db")).exit_code == 3
    assert not db.with_name("none.db").exists()
