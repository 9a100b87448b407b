"""Checkpoints, signatures and receipts: what can be proven without the log."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant.audit.signing import is_signed_by, sign
from assistant.audit.verify import verify
from assistant.cli.audit import audit
from assistant.errors import LedgerError, UsageError
from assistant.store.checkpoint import (
    Checkpoint,
    keep_outside,
    kept_outside,
    outside_file,
    parse_note,
    read_checkpoints,
)
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, "-C", "auditor"], check=True)
    return path


def test_the_note_is_a_c2sp_checkpoint() -> None:
    point = Checkpoint("ab12", 5, bytes(range(32)))
    assert point.note == "pellucid.local/ab12\n5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert parse_note(point.note) == point
    assert Checkpoint.from_dict(point.to_dict()) == point
    for bad in (
        "",
        "x",
        "pellucid.local/a\n5\n",
        "pellucid.local/a\n05\nAA==\n",
        "pellucid.local/a\n5\nAA==\n",
        "p\n5\nx\n",
    ):
        with pytest.raises(ValueError):
            parse_note(bad)


def test_checkpoints_are_kept_in_the_log_and_outside(ledger: Ledger, path: Path) -> None:
    log_turn(ledger)
    point = ledger.checkpoint()
    assert point.size == 4 and kept_outside(point.log) == [point]
    assert outside_file(point.log).stat().st_mode & 0o777 == 0o600
    log_turn(ledger)
    ledger.close()  # leaves one more
    assert [p.size for p in kept_outside(point.log)] == [4, 7]
    with Ledger.open(path) as again:
        assert verify(again).checkpoints == 4
    assert len(kept_outside(point.log)) == 2  # nothing was added: nothing to pin


def test_a_long_session_is_pinned_from_time_to_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.store.ledger._PIN_EVERY", 4)
    for _ in range(6):
        log_turn(ledger)
    assert len(ledger.query("SELECT * FROM checkpoint")) >= 2
    assert verify(ledger).problems == []


def test_an_unwritable_state_folder_harms_no_turn(ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "state").write_text("a file where a folder should be")
    log_turn(ledger)
    with pytest.raises(LedgerError, match="cannot be kept"):
        ledger.checkpoint()
    log_turn(ledger)
    ledger.close()
    assert "no checkpoint could be made" in caplog.text


def test_a_line_cut_off_while_written_never_counted(ledger: Ledger) -> None:
    log_turn(ledger)
    point = ledger.checkpoint()
    with outside_file(point.log).open("a") as file:
        file.write('{"note": "pelluc')
    assert kept_outside(point.log) == [point]
    assert verify(ledger).problems == []


@needs_ssh
def test_signed_checkpoints(ledger: Ledger, key: Path, tmp_path: Path) -> None:
    log_turn(ledger)
    public = key.with_suffix(".pub")
    assert "no checkpoint is signed" in verify(ledger, key=public).problems[0].message
    signed = sign(ledger, ledger.checkpoint(), key, "ssh")
    assert is_signed_by(signed, public) and verify(ledger, key=public).outcome == "ok"
    assert not is_signed_by(Checkpoint(signed.log, signed.size, bytes(32), 0, signed.signatures), public)
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    assert not is_signed_by(signed, other.with_suffix(".pub"))
    report = verify(ledger, key=other.with_suffix(".pub"))
    assert report.outcome == "tampered" and len(report.problems) == 1  # though the checkpoint is kept in two places
    assert verify(ledger, key=public).problems == []
    with pytest.raises(UsageError, match="no OpenSSH public key"):
        is_signed_by(signed, key)


@needs_ssh
def test_a_signed_checkpoint_is_checked_without_this_program(path: Path, key: Path, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        log_turn(ledger)
    note, public = tmp_path / "note", key.with_suffix(".pub").read_text()
    result = run("checkpoint", "--sign", key, "--output", note, "--db", path)
    assert result.exit_code == 0 and result.stdout == note.read_text()
    (tmp_path / "allowed").write_text(f"me {public}")
    command = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        tmp_path / "allowed",
        "-I",
        "me",
        "-n",
        "pellucid-checkpoint",
        "-s",
        tmp_path / "note.sig",
    ]
    assert subprocess.run(command, stdin=note.open(), capture_output=True, check=False).returncode == 0
    note.write_text(note.read_text().upper())
    assert subprocess.run(command, stdin=note.open(), capture_output=True, check=False).returncode != 0


def test_a_native_signature_is_part_of_the_note(path: Path, key: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with Ledger.open(path) as ledger:
        log_turn(ledger)
    result = run("checkpoint", "--sign", key, "--method", "ed25519", "--output", tmp_path / "note", "--db", path)
    assert result.stdout == (tmp_path / "note").read_text() and "\n— pellucid.local/" in result.stdout
    assert not (tmp_path / "note.sig").exists()


def test_a_public_key_that_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me")
    with pytest.raises(UsageError, match="holds no OpenSSH public key"):
        is_signed_by(Checkpoint("ab12", 5, bytes(32)), tmp_path / "k.pub")


def test_native_signatures(ledger: Ledger, key: Path) -> None:
    pytest.importorskip("cryptography")
    log_turn(ledger)
    signed = sign(ledger, ledger.checkpoint(), key, "ed25519")
    assert is_signed_by(signed, key.with_suffix(".pub"))
    assert is_signed_by(parse_note(signed.signed_note), key.with_suffix(".pub"))
    assert not is_signed_by(Checkpoint(signed.log, 1, bytes(32), 0, signed.signatures), key.with_suffix(".pub"))


@needs_ssh
def test_checkpoint_command(path: Path, key: Path, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        log_turn(ledger)
    result = run("checkpoint", "--db", path, "--sign", key, "-o", tmp_path / "note")
    assert result.exit_code == 0 and result.stdout == (tmp_path / "note").read_text()
    assert read_checkpoints(tmp_path / "note")[0].size == 4  # the one that closing made: nothing has happened since
    assert run("verify", "--db", path, "--checkpoint", tmp_path / "note", "--key", key.with_suffix(".pub")).exit_code == 0
    forged = Checkpoint(read_checkpoints(tmp_path / "note")[0].log, 2, bytes(32))
    (tmp_path / "forged").write_text(forged.note)
    assert run("verify", "--db", path, "--checkpoint", tmp_path / "forged").exit_code == 4
    (tmp_path / "foreign").write_text(Checkpoint("other", 2, bytes(32)).note)
    assert run("verify", "--db", path, "--checkpoint", tmp_path / "foreign").exit_code == 4
    assert run("verify", "--db", path, "--checkpoint", tmp_path / "missing").exit_code == 3
    assert run("checkpoint", "--db", path, "--sign", tmp_path / "nokey").exit_code == 3


@needs_ssh
def test_receipts_need_no_log(path: Path, key: Path, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        for _ in range(5):
            turn = log_turn(ledger, prompt="今天天气怎么样？")
        log_turn(ledger)
    run("checkpoint", "--db", path, "--sign", key, "-o", tmp_path / "note")
    file = tmp_path / "receipt.json"
    assert run("receipt", turn.id, "--db", path, "--with-content", "--json", "-o", file).exit_code == 0
    shutil.rmtree(path.parent)
    result = run("check-receipt", file, "--checkpoint", tmp_path / "note", "--key", key.with_suffix(".pub"))
    assert result.exit_code == 0 and "今天天气怎么样？" in result.stdout and "proven" in result.stdout
    assert json.loads(run("check-receipt", file, "--json").stdout)["trusted"] is False

    sound = json.loads(file.read_text())

    def forged(change: object) -> int:
        value = json.loads(json.dumps(sound))
        change(value)  # type: ignore[operator]
        (tmp_path / "forged.json").write_text(json.dumps(value))
        return run("check-receipt", tmp_path / "forged.json", "--key", key.with_suffix(".pub")).exit_code

    body = base64.b64encode("明天".encode()).decode()
    assert forged(lambda v: None) == 0
    assert forged(lambda v: v["records"][0]["content"]["prompt"].update(body=body)) == 4
    assert forged(lambda v: v["records"][1].update(record=v["records"][1]["record"].replace("allow", "block"))) == 4
    assert forged(lambda v: v["records"][1]["proof"].pop()) == 4
    assert forged(lambda v: v["records"][1].update(seq=3)) == 4
    assert forged(lambda v: v.update(turn="other")) == 4
    assert forged(lambda v: v["records"].clear()) == 4
    assert forged(lambda v: v["checkpoint"].update(signatures=[])) == 4
    assert forged(lambda v: v["checkpoint"].update(note="x")) == 3
    assert forged(lambda v: v.pop("records")) == 3
    for text in ("", "[]", "{", '{"format": 1}', "[" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        assert run("check-receipt", tmp_path / "bad.json").exit_code == 3


def test_a_log_elsewhere_is_another_log(tmp_path: Path) -> None:
    point = Checkpoint("0" * 32, 3, bytes(32))
    keep_outside(point, tmp_path / "ledger.db")
    with Ledger.open(tmp_path / "other.db") as ledger:
        assert verify(ledger).outcome == "ok"
