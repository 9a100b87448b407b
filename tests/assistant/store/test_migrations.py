"""Databases of every earlier version open, are updated in one step, and lose nothing. `databases/` keeps one of each."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from sqlite_utils import Database

from assistant.audit.export.jsonl import lines
from assistant.audit.importing import import_jsonl
from assistant.audit.verify import verify
from assistant.errors import LedgerError
from assistant.store import migrations
from assistant.store.driver import newest as sqlite3
from assistant.store.ledger import Ledger

from .conftest import log_turn

OLD = sorted(Path(__file__).with_name("databases").glob("version-*.gz"))


@pytest.fixture(params=OLD, ids=lambda p: p.stem)
def old(request: pytest.FixtureRequest, path: Path) -> Path:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(gzip.decompress(request.param.read_bytes()))
    return path


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def contents(ledger: Ledger) -> list[object]:
    tables = ("ledger", "content", "erased", "conversation", "counts", "checkpoint")
    return [ledger.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


def test_there_is_one_of_every_earlier_version() -> None:
    assert [int(path.stem.split("-")[1]) for path in OLD] == list(range(1, migrations.newest_version()))


def test_an_auditor_reads_it_as_it_is(old: Path) -> None:
    before = old.read_bytes()
    with Ledger.open(old, read_only=True) as ledger:
        report = verify(ledger, outside=False)
        assert (report.problems, report.turns, report.erased) == ([], 4, 5)
        assert [hit.turn for hit in ledger.search("天气")] == ["V1A"]
        assert ledger.turn("V1B").parent == "V1A" and len(ledger.attributions("V1B")) == 1
    assert old.read_bytes() == before


def test_a_writer_updates_it_and_nothing_is_lost(old: Path) -> None:
    with Ledger.open(old, read_only=True) as ledger:
        before = contents(ledger)
        size = ledger.query("SELECT max(seq) FROM ledger")[0][0]
    with Ledger.open(old) as ledger:
        assert version(old) == migrations.newest_version()
        kept = [[row for row in rows if table != 0 or row[0] <= size] for table, rows in enumerate(contents(ledger))]
        assert kept == before
        assert ledger.query("SELECT count(*) FROM ledger WHERE kind = 'schema'") == [(2,)]
        assert verify(ledger, outside=False).problems == []
        assert ledger.recover() == ["V1OPEN"] and ledger.turn("V1OPEN").reply == "partial"
        log_turn(ledger)
    with Ledger.open(old) as ledger:  # a second time there is nothing to do
        assert ledger.query("SELECT count(*) FROM ledger WHERE kind = 'schema'") == [(2,)]
        assert verify(ledger).problems == []


def test_an_update_that_fails_leaves_it_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(db: Database) -> None:
        db.execute("CREATE TABLE half_way (a TEXT)")
        db.execute("DROP TRIGGER ledger_no_delete")
        raise sqlite3.OperationalError("database or disk is full")

    before = old.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(migrations.migrations._migrations[-1], "fn", fail)
        with pytest.raises(LedgerError, match="disk is full"):
            Ledger.open(old)
    assert old.read_bytes() == before
    with Ledger.open(old) as ledger:
        assert verify(ledger, outside=False).problems == []


def test_an_old_export_comes_back_as_the_old_version(old: Path, tmp_path: Path) -> None:
    with Ledger.open(old, read_only=True) as ledger:
        (tmp_path / "old.jsonl").write_text("".join(lines(ledger)), "utf-8")
        root = verify(ledger, outside=False).root
    result = import_jsonl(tmp_path / "old.jsonl", tmp_path / "new.db")
    assert result.root == root and version(tmp_path / "new.db") == version(old)
    with Ledger.open(tmp_path / "new.db") as ledger:
        assert verify(ledger).problems == []


def test_every_step_gives_the_schema_of_a_fresh_ledger(old: Path, tmp_path: Path) -> None:
    Ledger.open(old).close()
    Ledger.open(tmp_path / "fresh.db").close()
    with sqlite3.connect(old) as updated, sqlite3.connect(tmp_path / "fresh.db") as fresh:
        assert migrations.describe(updated) == migrations.describe(fresh) == migrations.expected(migrations.newest_version())


def test_the_views(ledger: Ledger) -> None:
    turn = log_turn(ledger)
    ledger.record_event("review", {"turn": turn.id, "side": "prompt", "label": "safe"})
    assert ledger.query("SELECT turn, prompt, reply, reply_tokens FROM turns") == [(turn.id, turn.prompt, turn.reply, 3)]
    assert ledger.query("SELECT turn, label FROM reviews") == [(turn.id, "safe")]
    assert ledger.query("SELECT count(*) FROM safety_events") == [(0,)]
    assert ledger.query("SELECT kind FROM events WHERE seq = 1") == [("schema",)]
