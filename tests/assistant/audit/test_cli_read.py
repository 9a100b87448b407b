"""`pellucid audit list|show|search|verify|export`: data on stdout, narration on stderr, documented exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from assistant.cli.audit import audit
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import BLOCK

EVIL = "bomb \x1b]52;c;evil\x07 \u202e\x9b"


def run(*args: str) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


@pytest.fixture
def db(path: Path) -> str:
    with Ledger.open(path) as ledger:
        log_turn(ledger, id="T1", prompt="今天天气怎么样？", language="zh")
        log_turn(ledger, id="T2", prompt="bomb \x1b]52;c;evil\x07 \u202e\x9b", prompt_verdict=BLOCK, finish="blocked_prompt")
    return str(path)


def test_list(db: str) -> None:
    result = run("list", "--db", db)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 2
    assert "T2" in lines[0] and "block" in lines[0] and "今天天气" in lines[1]


def test_nothing_reaches_the_terminal_raw(db: str) -> None:
    for command in (["list"], ["show", "T2"], ["search", "bomb"], ["show", "T2", "--json"], ["export"]):
        result = run(*command, "--db", db)
        assert result.exit_code == 0
        if command != ["export"]:  # an export is data for a file; JSON escapes what a terminal would obey, but not C1
            assert not set(result.output) & set("\x1b\x07\x9b\u202e"), command


def test_pages(db: str) -> None:
    result = run("list", "--db", db, "--limit", "1")
    assert "more: --before 6" in result.stderr
    assert "T1" in run("list", "--db", db, "--limit", "1", "--before", "6").stdout


def test_filters(db: str) -> None:
    assert [row["turn"] for row in json.loads(run("list", "--db", db, "--json", "--lang", "zh").stdout)] == ["T1"]
    assert [row["turn"] for row in json.loads(run("list", "--db", db, "--json", "--verdict", "flagged").stdout)] == ["T2"]
    assert json.loads(run("list", "--db", db, "--json", "--since", "1h", "--until", "30min").stdout) == []
    result = run("list", "--db", db, "--since", "yesterdayish")
    assert result.exit_code == 2 and "is no time" in result.stderr


def test_show(db: str) -> None:
    value = json.loads(run("show", "T2", "--json", "--tokens", "--db", db).stdout)
    assert value["prompt_verdict"]["action"] == "block"
    assert value["tokens"][0]["candidates"][0]["text"] == "It"
    text = run("show", "T1", "--tokens", "--db", db).stdout
    assert "今天天气怎么样？" in text and "smollm2-135m" in text
    result = run("show", "nope", "--db", db)
    assert result.exit_code == 3 and "there is no turn" in result.stderr and result.stdout == ""


def test_search(db: str) -> None:
    assert "«天气»" in run("search", "天气", "--db", db).stdout
    (hit,) = json.loads(run("search", "天气", "--json", "--db", db).stdout)
    assert hit["turn"] == "T1"
    assert run("search", "？", "--db", db).exit_code == 2
    assert run("search", "nothing", "--db", db).exit_code == 0


def test_verify(db: str) -> None:
    result = run("verify", "--db", db)
    assert result.exit_code == 0 and result.stdout.startswith("ok: 7 records, 2 turns, 11 texts")
    assert json.loads(run("verify", "--json", "--db", db).stdout)["outcome"] == "ok"


def test_export(db: str, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in run("export", "--no-log-export", "--db", db).stdout.splitlines()]
    assert lines[0]["header"]["size"] == lines[-1]["footer"]["size"] == 7
    assert lines[4]["content"]["reply"]["text"] == "It is sunny."
    out = tmp_path / "log.jsonl"
    assert run("export", "--no-log-export", "--db", db, "-o", str(out)).exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600 and len(out.read_text().splitlines()) == 9
    result = run("export", "--db", db, "-o", str(tmp_path / "no" / "such" / "folder.jsonl"))
    assert result.exit_code == 3 and "cannot be written" in result.stderr


@pytest.mark.parametrize("command", ["list", "show x", "search x", "verify", "export"])
def test_unreadable(command: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.db"
    bad.write_text("not a database")
    for db in (bad, tmp_path / "missing.db"):
        result = run(*command.split(), "--db", str(db))
        assert result.exit_code == 3 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert bad.read_text() == "not a database" and not (tmp_path / "missing.db").exists()


def test_exit_codes_through_the_program(db: str, tmp_path: Path) -> None:
    with Ledger.open(db) as ledger, ledger.exclusive() as connection:
        connection.execute("DROP TRIGGER ledger_no_update")
    for arguments, code in (("list", 0), ("show nope", 3), ("search ?", 2), ("list --verdict bad", 2), ("verify", 4)):
        command = [sys.executable, "-c", "from assistant.cli.main import main; main()", "audit", *arguments.split(), "--db", db]
        assert subprocess.run(command, capture_output=True, check=False).returncode == code, arguments


def test_the_users_own_log_is_the_default(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "home" / "ledger.db") as ledger:
        log_turn(ledger, id="MINE")
    assert "MINE" in run("list").stdout


def test_no_audit_command_loads_a_model() -> None:
    modules = "assistant.cli.audit, assistant.audit.verify, assistant.store.ledger"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def every_command() -> list[Any]:
    found: list[Any] = []
    for name, command in sorted(audit.commands.items()):
        found += sorted(command.commands.items()) if hasattr(command, "commands") else [(name, command)]
    return found


@pytest.mark.parametrize(("name", "command"), every_command())
def test_every_command_has_help_and_the_common_options(name: str, command: Any) -> None:
    assert command.help
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options and (name == "check-receipt" or "--db" in options)
    for parameter in command.params:
        assert parameter.param_type_name == "argument" or parameter.help, parameter.name
