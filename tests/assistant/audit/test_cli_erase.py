"""`audit redact` and `audit retention`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant.cli.audit import audit
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import BLOCK

DAY = 86_400 * 10**9


def run(*args: object, input: str | None = None) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args], input=input)


@pytest.fixture
def db(path: Path) -> Path:
    """A turn of a year ago, a flagged one of a year ago, and one of today."""
    now = time.time_ns()
    for name, age, verdict in (("OLD", 365, None), ("OLDBAD", 365, BLOCK), ("NEW", 0, None)):
        with Ledger.open(path, clock=lambda age=age: now - age * DAY) as ledger:
            log_turn(ledger, id=name, prompt=f"the phone of {name}", **({"prompt_verdict": verdict} if verdict else {}))
    return path


def test_dry_run_changes_nothing(db: Path) -> None:
    before = db.read_bytes()
    result = run("redact", "--match", "phone", "--dry-run", "--db", db)
    assert result.exit_code == 0 and result.stdout.split() == ["OLD", "OLDBAD", "NEW"]
    assert "to erase: 3 turns" in result.stderr and db.read_bytes() == before


def test_redact_asks_and_erases(db: Path) -> None:
    assert run("redact", "NEW", "--db", db, input="n\n").exit_code == 1
    assert run("search", "phone", "NEW", "--db", db).stdout
    assert run("redact", "NEW", "--db", db, "--reason", "request 17", input="y\n").exit_code == 0
    assert run("search", "phone", "NEW", "--db", db).stdout == ""
    result = run("verify", "--db", db)
    assert result.exit_code == 0 and "erased (5)" in result.stdout
    assert "(erased)" in run("list", "--db", db).stdout
    assert json.loads(run("show", "NEW", "--json", "--db", db).stdout)["erased"]
    assert json.loads(run("redact", "NEW", "--yes", "--json", "--db", db).stdout)["parts"] == 0


def test_by_rule_and_by_nothing(db: Path) -> None:
    assert run("redact", "--rule", "weapons.make", "--yes", "--db", db).stdout.split() == ["OLDBAD"]
    assert run("redact", "--db", db).exit_code == 2
    assert run("redact", "NOSUCH", "--yes", "--db", db).exit_code == 3
    assert run("redact", "--match", "(", "--yes", "--db", db).exit_code == 2


def test_retention(db: Path) -> None:
    assert run("retention", "--older-than", "180d", "--keep", "flagged", "--yes", "--db", db).stdout.split() == ["OLD"]
    assert run("retention", "--older-than", "180d", "--yes", "--db", db).stdout.split() == ["OLDBAD"]
    assert run("retention", "--older-than", "180d", "--yes", "--db", db).stdout == ""
    assert run("verify", "--db", db).exit_code == 0
    assert run("retention", "--db", db).exit_code == 2
