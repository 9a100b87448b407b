"""A log that is encrypted at rest: the same ledger, and nothing readable in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant.audit.redact import redact
from assistant.audit.verify import verify
from assistant.cli.audit import audit
from assistant.errors import LedgerError
from assistant.store.driver import KEY_VARIABLE
from assistant.store.ledger import Ledger

from .conftest import log_turn

PASSPHRASE = "it's 机密"


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


def test_without_the_extra_it_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, PASSPHRASE)
    monkeypatch.setitem(__import__("sys").modules, "sqlcipher3", None)
    with pytest.raises(LedgerError, match=r"pip install 'pellucid\[encrypt\]'"):
        Ledger.open(path)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("sqlcipher3")
    monkeypatch.setenv(KEY_VARIABLE, PASSPHRASE)
    return PASSPHRASE


def test_everything_works_and_nothing_is_readable(path: Path, key: str, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        turn = log_turn(ledger, prompt="今天天气怎么样？ weather")
        gone = log_turn(ledger, prompt="secret words")
        redact(ledger, gone.id, "asked")
        assert [hit.turn for hit in ledger.search("天气")] == [turn.id]
        assert verify(ledger).problems == []
        raw = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert b"weather" not in raw and b"SQLite format 3" not in raw and "天气".encode() not in raw
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.turn(turn.id) == turn
    assert run("verify", "--db", path).exit_code == 0
    assert run("backup", tmp_path / "copy.db", "--db", path).exit_code == 0
    assert b"weather" not in (tmp_path / "copy.db").read_bytes()
    assert run("verify", "--no-outside", "--db", tmp_path / "copy.db").exit_code == 0
    assert "encrypted" in run("doctor", "--db", path).stdout


def test_a_wrong_key_or_none(path: Path, key: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with Ledger.open(path) as ledger:
        log_turn(ledger)
    before = path.read_bytes()
    monkeypatch.setenv(KEY_VARIABLE, "wrong")
    for read_only in (True, False):
        with pytest.raises(LedgerError, match="cannot be decrypted"):
            Ledger.open(path, read_only=read_only)
    assert capfd.readouterr() == ("", "")  # SQLCipher has nothing to add
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(LedgerError, match=f"or is encrypted: set {KEY_VARIABLE}"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_an_encrypted_copy(path: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(path, key="") as ledger:
        turn = log_turn(ledger)
        root = verify(ledger).root
    with pytest.raises(LedgerError, match="is not encrypted"):
        Ledger.open(path)
    assert run("encrypt", tmp_path / "secret.db", "--db", path).exit_code == 0
    assert run("encrypt", tmp_path / "secret.db", "--db", path).exit_code == 3
    with Ledger.open(tmp_path / "secret.db", read_only=True) as ledger:
        assert ledger.turn(turn.id) == turn and root
        assert verify(ledger).problems == []
    monkeypatch.delenv(KEY_VARIABLE)
    assert run("encrypt", tmp_path / "other.db", "--db", path).exit_code == 3
