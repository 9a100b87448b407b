"""The benchmark measures a sound ledger; its figures are not judged here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assistant.audit.bench import bench, fill, table
from assistant.audit.verify import verify
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn


def test_a_bulk_filled_ledger_is_a_ledger(tmp_path: Path) -> None:
    fill(tmp_path / "bulk.db", 300)
    with Ledger.open(tmp_path / "bulk.db") as ledger:
        assert verify(ledger).problems == []
        turn = ledger.turn(ledger.list_turns(limit=1)[0].turn)
        assert turn.prompt and turn.reply and turn.sampling.seed is not None
        assert len(ledger.conversations(limit=100)) == 38
        assert len(ledger.list_turns(limit=1000, model="smollm2-135m", finish="stop")) == 300  # columns that are in no index
        assert ledger.query("PRAGMA integrity_check") == [("ok",)]
        log_turn(ledger)
        assert verify(ledger).problems == []


def test_the_search_index_is_built_in_one_piece(tmp_path: Path) -> None:
    fill(tmp_path / "bulk.db", 1500)
    with Ledger.open(tmp_path / "bulk.db", read_only=True) as ledger:
        assert ledger.query("SELECT count(DISTINCT segid) FROM fts_idx") == [(1,)]
        assert ledger.query("SELECT count(*) FROM fts_docsize") == [(1500,)]


def test_what_is_measured_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    bench(200, folder=tmp_path, durable=2, searches=2, rounds=1, say=lambda what, fraction: said.append(what))
    assert list(dict.fromkeys(said))[:4] == ["bulk insert", "search index", "export and import", "verify chain"]
    assert "erasure" in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_bench_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from assistant.audit.bench import bench; bench(10**6, folder=Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as program:
        while not list(tmp_path.glob("*/ledger.db")) and program.poll() is None:
            time.sleep(0.05)
        program.terminate()
        assert program.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_the_figures(tmp_path: Path) -> None:
    figures = bench(200, folder=tmp_path, durable=5, searches=5)
    json.dumps(figures)
    assert {"bulk_turns_per_second", "durable_p99_ms", "search_zh_p95_ms", "open_ms"} <= figures.keys()
    assert len(table(figures)) == len(figures) and [p for p in tmp_path.rglob("*") if p.is_file()] == []
