"""Exports: JSON lines that verify and come back as the same log, and turns for spreadsheets, pages, collectors,
Datasette.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from assistant.audit.export import datasette
from assistant.audit.export.table import formula_safe
from assistant.audit.importing import import_jsonl
from assistant.audit.redact import redact
from assistant.audit.review import add_review
from assistant.audit.selection import select
from assistant.audit.verify import verify
from assistant.cli.audit import audit
from assistant.errors import LedgerError
from assistant.store.driver import newest as sqlite3
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import BLOCK

EVIL = "<script>alert(1)</script>\x1b]52;c;x\x07\u202e\"'&=cmd|' /C calc'!A0"


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


@pytest.fixture
def db(path: Path) -> Path:
    with Ledger.open(path) as ledger:
        first = log_turn(ledger, id="T1", prompt="今天天气怎么样？", language="zh", reply="很好")
        log_turn(ledger, id="T2", prompt="=1+1", reply=EVIL, parent=first.id, conversation=first.conversation)
        gone = log_turn(ledger, id="GONE", prompt="secret words here")
        log_turn(ledger, id="T3", prompt="bad", prompt_verdict=BLOCK, output_verdict=None, finish="blocked_prompt", tokens=())
        add_review(ledger, "T3", "unsafe", note="=HYPERLINK()")
        redact(ledger, select(ledger, [gone.id]), "asked")
    return path


@pytest.fixture
def exported(db: Path, tmp_path: Path) -> Path:
    file = tmp_path / "log.jsonl"
    assert run("export", "--no-log-export", "--db", db, "-o", file).exit_code == 0
    return file


def report(path: Path) -> dict[str, Any]:
    with Ledger.open(path, read_only=True) as ledger:
        return {**verify(ledger).to_dict(), "checkpoints": 0}


def test_import_gives_the_same_log(db: Path, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    result = import_jsonl(exported, copy)
    assert report(copy) == report(db) and report(copy)["outcome"] == "ok"
    assert result.root == report(db)["root"]
    assert copy.stat().st_mode & 0o777 == 0o600
    with Ledger.open(db, read_only=True) as a, Ledger.open(copy, read_only=True) as b:
        for table in ("ledger", "content", "erased", "registry", "checkpoint", "signature", "conversation", "counts"):
            assert a.query(f"SELECT * FROM {table} ORDER BY 1, 2") == b.query(f"SELECT * FROM {table} ORDER BY 1, 2")
        assert a.query("SELECT type, name, sql FROM sqlite_master ORDER BY 2") == b.query(
            "SELECT type, name, sql FROM sqlite_master ORDER BY 2"
        )
        assert [h.turn for h in b.search("天气")] == ["T1"] and b.search("secret") == []
        assert a.list_turns() == b.list_turns()
    with Ledger.open(copy) as ledger:
        log_turn(ledger)
    assert report(copy)["outcome"] == "ok"
    with sqlite3.connect(copy) as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute("DELETE FROM ledger")


def records(path: Path) -> list[tuple[int, str, str]]:
    with Ledger.open(path, read_only=True) as ledger:
        return list(ledger.query("SELECT seq, kind, record FROM ledger ORDER BY seq"))


def test_what_is_taken_out_and_where_a_log_came_from_is_logged(db: Path, tmp_path: Path) -> None:
    before, file, copy = len(records(db)), tmp_path / "log.jsonl", tmp_path / "copy.db"
    assert run("export", "--db", db, "-o", file).exit_code == 0
    seq, kind, record = records(db)[before]
    assert (seq, kind) == (before + 1, "export") and json.loads(record)["format"] == "jsonl" and json.loads(record)["texts"] is True
    whole = report(db)  # the export holds the record of itself
    result = run("import", file, "--db", copy, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["root"] == whole["root"]
    assert records(copy)[: whole["size"]] == records(db)
    seq, kind, record = records(copy)[whole["size"]]
    assert kind == "import" and (json.loads(record)["size"], json.loads(record)["root"]) == (whole["size"], whole["root"])
    assert report(copy)["outcome"] == report(db)["outcome"] == "ok"  # the copy left no checkpoint in the name of the first log
    assert run("export", "--db", db, "--format", "csv", "--verdict", "block").exit_code == 0
    assert run("review", "export", "--db", db).exit_code == 0
    assert run("backup", tmp_path / "backup.db", "--db", db).exit_code == 0
    found = [json.loads(record) for _, kind, record in records(db) if kind == "export"][1:]
    assert [(e["format"], e.get("filter")) for e in found] == [("csv", {"verdict": "block"}), ("training", None), ("backup", None)]


def test_a_log_that_can_only_be_read_is_exported_all_the_same(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = db.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise LedgerError("the log cannot be written: the file or its folder is read-only")

    monkeypatch.setattr(Ledger, "transaction", refuse)
    result = run("export", "--db", db, "--format", "csv")
    assert result.exit_code == 0 and "not noted in the log" in result.stderr and result.stdout.count("\n") >= 5
    assert db.read_bytes() == before


def test_import_never_replaces_a_log(db: Path, exported: Path) -> None:
    before = db.read_bytes()
    result = run("import", exported, "--db", db)
    assert result.exit_code == 3 and "exists already" in result.stderr and db.read_bytes() == before


def edited(change: Callable[[list[Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        lines = [json.loads(line) for line in text.splitlines()]
        change(lines)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    return apply


def swap(lines: list[Any]) -> None:
    lines[4], lines[5] = lines[5], lines[4]


HOSTILE: dict[str, tuple[Callable[[str], str], int]] = {
    "empty": (lambda text: "", 3),
    "garbage": (lambda text: "\x00\xff garbage", 3),
    "deep nesting": (lambda text: "[" * 200_000 + text, 3),
    "deep nesting inside": (
        lambda text: text.replace('"content":', '"x": ' + "[" * 99_999 + "]" * 99_999 + ', "content":', 1),
        3,
    ),
    "duplicate keys": (
        lambda text: text.replace('"seq":', '"seq": 1, "seq":', 1).replace('"seq": 2', '"seq": 2', 1),
        3,
    ),
    "duplicate keys in a record": (edited(lambda v: v[4].update(record=v[4]["record"].replace("{", '{"v":2,', 1))), 3),
    "NaN": (lambda text: text.replace('"size": 13', '"size": NaN', 1), 3),
    "infinity in a record": (edited(lambda v: v[4].update(record=v[4]["record"].replace('"v":1', '"v":1e400'))), 3),
    "lone surrogates": (edited(lambda v: v[4].update(record=v[4]["record"].replace("T1", "\ud800"))), 3),
    "no header": (edited(lambda v: v.pop(0)), 3),
    "no footer": (edited(lambda v: v.pop()), 3),
    "cut off": (lambda text: text[: len(text) // 2], 3),
    "more after the footer": (lambda text: text + text.splitlines()[1] + "\n", 3),
    "future schema": (edited(lambda v: v[0]["header"].update(schema_version=99)), 3),
    "missing record": (edited(lambda v: v.pop(4)), 3),
    "swapped records": (edited(swap), 3),
    "other record": (edited(lambda v: v[4].update(record=v[4]["record"].replace('"allow"', '"block"'))), 4),
    "other text": (edited(lambda v: v[4]["content"]["reply"].update(text="forged")), 4),
    "other salt": (edited(lambda v: v[4]["content"]["reply"].update(salt="00" * 32)), 4),
    "text left out": (edited(lambda v: v[4]["content"].pop("reply")), 4),
    "text added": (edited(lambda v: v[4]["content"].update(x=v[4]["content"]["reply"])), 4),
    "wrong base64": (edited(lambda v: v[4]["content"].update(tokens={"codec": "x", "salt": "", "base64": "%"})), 3),
    "other root": (edited(lambda v: v[-1]["footer"].update(root="00" * 32)), 4),
    "other log": (edited(lambda v: v[0]["header"].update(log="other")), 4),
    "bad registry": (edited(lambda v: v[-1]["footer"].update(registry=[["x"]])), 3),
    "bad checkpoint": (edited(lambda v: v[-1]["footer"].update(checkpoints=[{"note": "x"}])), 3),
    "a record of numbers": (edited(lambda v: v[4].update(record=5)), 3),
    "content of numbers": (edited(lambda v: v[4].update(content=5)), 3),
    "a list as line": (lambda text: text.replace("\n", "\n[]\n", 1), 3),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_imports_leave_nothing(exported: Path, tmp_path: Path, name: str) -> None:
    change, code = HOSTILE[name]
    hostile = tmp_path / "hostile.jsonl"
    text = change(exported.read_text("utf-8"))
    assert text != exported.read_text("utf-8")
    hostile.write_text(text, "utf-8", errors="surrogatepass")
    (tmp_path / "into").mkdir()
    result = run("import", hostile, "--db", tmp_path / "into" / "new.db")
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert list((tmp_path / "into").iterdir()) == [] and len(result.stderr.splitlines()) == 1


def standalone(exported: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Run the verifier that lies beside the export, without any package in reach."""
    verifier = exported.with_name("log.verify.py")
    assert verifier.exists()
    command = [sys.executable, "-I", "-S", str(verifier), str(exported), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_standalone_verifier(db: Path, exported: Path, tmp_path: Path) -> None:
    root = report(db)["root"]
    result = standalone(exported, "--root", root)
    assert result.returncode == 0 and "erased (5)" in result.stdout and root in result.stdout
    assert standalone(exported, "--root", "00").returncode == 4
    run("checkpoint", "--db", db, "-o", tmp_path / "note")
    assert standalone(exported, "--checkpoint", tmp_path / "note").returncode == 0
    (tmp_path / "note").write_text("pellucid.local/x\n3\n" + "A" * 43 + "=\n")
    assert standalone(exported, "--checkpoint", tmp_path / "note").returncode == 4


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"future schema", "bad registry", "bad checkpoint"}))
def test_the_standalone_verifier_refuses_what_import_refuses(exported: Path, name: str) -> None:
    exported.write_text(HOSTILE[name][0](exported.read_text("utf-8")), "utf-8", errors="surrogatepass")
    result = standalone(exported)
    if name == "other log":  # the log's name is checked against the checkpoint note only by `import`
        assert result.returncode == 0
    else:
        assert result.returncode in (3, 4) and "Traceback" not in result.stderr


def test_csv(db: Path) -> None:
    text = run("export", "--format", "csv", "--db", db).stdout
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text[1:])))
    assert [row["turn"] for row in rows] == ["T1", "T2", "GONE", "T3"]
    assert rows[0]["prompt"] == "今天天气怎么样？" and rows[1]["prompt"] == "'=1+1"
    assert rows[2]["prompt"] == "" and "prompt" in rows[2]["erased"]
    assert "\x1b" not in text and "\u202e" not in text
    for dangerous in ("=1", "+1", "-1", "@x", "\t=1", " =1", "\n=1", "＝1"):
        assert formula_safe(dangerous).startswith("'")
    assert formula_safe("a=1") == "a=1"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_html(db: Path) -> None:
    text = run("export", "--format", "html", "--db", db).stdout
    parser = Tags()
    parser.feed(text)
    names = {tag for tag, _ in parser.tags}
    assert "script" not in names and {"svg", "table", "article"} <= names
    assert "default-src 'none'" in text and not re.search(r"(src|href)=", text)
    for _, attributes in parser.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert "今天天气怎么样？" in text and "&lt;script&gt;" in text and "prompt erased" in text
    assert "\x1b" not in text and "\u202e" not in text


def test_otlp(db: Path) -> None:
    text = run("export", "--format", "otlp", "--db", db).stdout
    (resource,) = json.loads(text)["resourceSpans"]
    assert "semantic-conventions-genai@" in text and "天气" not in text
    spans = resource["scopeSpans"][0]["spans"]
    assert len(spans) == 4
    for span in spans:
        assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and re.fullmatch("[0-9a-f]{16}", span["spanId"])
        keys = [a["key"] for a in span["attributes"]]
        assert len(keys) == len(set(keys)) and "gen_ai.usage.input_tokens" in keys
    assert spans[1]["parentSpanId"] == spans[0]["spanId"] and spans[1]["traceId"] == spans[0]["traceId"]
    values = {a["key"]: a["value"] for a in spans[3]["attributes"]}
    assert values["gen_ai.response.finish_reasons"] == {"arrayValue": {"values": [{"stringValue": "content_filter"}]}}
    with_texts = run("export", "--format", "otlp", "--with-content", "--db", db).stdout
    (messages,) = [
        json.loads(a["value"]["stringValue"])
        for a in json.loads(with_texts)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]
        if a["key"] == "gen_ai.input.messages"
    ]
    assert messages == [{"role": "user", "parts": [{"type": "text", "content": "今天天气怎么样？"}]}]


def test_datasette(db: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert run("export", "--format", "datasette", "-o", copy, "--db", db).exit_code == 0
    with sqlite3.connect(copy) as c:
        assert c.execute("SELECT turn FROM turns ORDER BY rowid").fetchall() == [("T1",), ("T2",), ("GONE",), ("T3",)]
        assert c.execute("SELECT sum(turns), sum(flagged) FROM conversations").fetchall() == [(4, 1)]
        assert c.execute("SELECT label FROM reviews").fetchall() == [("unsafe",)]
        # what Datasette's search box asks: every word in quotes
        boxed = "SELECT turn FROM turns WHERE rowid IN (SELECT rowid FROM turns_fts WHERE turns_fts MATCH ?) ORDER BY rowid"
        for text, hits in {
            '"天"': ["T1"], '"天气"': ["T1"], '"怎么样"': ["T1"], '"气怎"': ["T1"], '"很好"': ["T1"], '"天" "样"': ["T1"],
            '"天样"': [], '"好天"': [], '"SCRIPT"': ["T2"], '"secret"': [],
        }.items():  # fmt: skip
            assert c.execute(boxed, (text,)).fetchall() == [(hit,) for hit in hits], text
        for text, hits in {
            "天": ["T1"], "天气": ["T1"], "今天天气怎么样": ["T1"], "天气怎样": [], "alert": ["T2"], 'alert(1)" OR "bad': [], "bad": ["T3"],
        }.items():  # fmt: skip
            assert [row[0] for row in c.execute(datasette.SEARCH, {"text": text})] == hits, text
    metadata = (tmp_path / "copy.metadata.yaml").read_text()
    assert metadata.startswith("title: ") and json.dumps(datasette.SEARCH) in metadata
    assert copy.stat().st_mode & 0o777 == 0o600
    assert run("export", "--format", "datasette", "-o", copy, "--db", db).exit_code == 3
    assert run("export", "--format", "datasette", "--db", db).exit_code == 2


def test_filters(db: Path) -> None:
    text = run("export", "--format", "csv", "--verdict", "block", "--db", db).stdout
    assert [row["turn"] for row in csv.DictReader(io.StringIO(text[1:]))] == ["T3"]
    assert run("export", "--format", "jsonl", "--verdict", "block", "--db", db).exit_code == 2


def test_a_pipe_is_written_to_and_not_replaced(db: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text, "utf-8")
        assert run("export", "--format", "jsonl", "-o", pipe, "--db", db).exit_code == 0
        lines = read.result().splitlines()
    assert json.loads(lines[-1]) and pipe.is_fifo() and not list(tmp_path.glob("*.verify.py"))


def test_a_full_place_is_said_and_left_as_it_was(db: Path) -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("needs /dev/full")
    result = run("export", "--format", "csv", "-o", full, "--db", db)
    assert result.exit_code == 3 and "No space left" in result.stderr and full.is_char_device()


@pytest.mark.parametrize("form", ["jsonl", "csv", "html", "otlp", "datasette"])
def test_an_unwritable_place(db: Path, tmp_path: Path, form: str) -> None:
    for place in (tmp_path / "no" / "folder" / "x.out", Path("/proc/x.out")):
        result = run("export", "--format", form, "-o", place, "--db", db)
        assert result.exit_code == 3 and len(result.stderr.splitlines()) == 1, result.output
    shutil.rmtree(tmp_path / "no", ignore_errors=True)
