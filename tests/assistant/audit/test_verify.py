"""A sound log verifies while it is being written; the report counts what was checked."""

from __future__ import annotations

from pathlib import Path

from assistant.audit.verify import verify
from assistant.store.ledger import Ledger
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import make_turn


def test_an_empty_log(ledger: Ledger) -> None:
    report = verify(ledger)
    assert (report.outcome, report.size, report.turns) == ("ok", 1, 0)


def test_a_log_with_everything(ledger: Ledger) -> None:
    for _ in range(3):
        turn = log_turn(ledger)
    ledger.rename(turn.conversation, "title")
    ledger.record_event("access", {"what": "list"})
    ledger.open_turn(make_turn())
    report = verify(ledger)
    assert (report.problems, report.turns, report.size) == ([], 3, 11)
    assert report.contents == 1 + 3 * 5 + 1 + 3


def test_while_somebody_writes(ledger: Ledger, path: Path) -> None:
    for _ in range(3):
        log_turn(ledger)

    def write(done: int, total: int) -> None:
        log_turn(ledger)

    with Ledger.open(path, read_only=True) as reader:
        report = verify(reader, progress=write)
    assert (report.problems, report.turns) == ([], 3)


def test_many_pages_and_stored_edges_of_the_tree(ledger: Ledger) -> None:
    with ledger.transaction() as appender:
        for i in range(2500):
            appender.append("access", {"number": i})
    assert ledger.query("SELECT size FROM frontier") == [(1024,), (2048,)]
    fast, full = verify(ledger, contents=False), verify(ledger)
    assert fast.problems == full.problems == []
    assert fast.root == full.root
