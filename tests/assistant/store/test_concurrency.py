"""Several programs write one ledger at the same time: nothing fails, nothing is lost, nothing is out of order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from assistant.audit.verify import verify
from assistant.store.ledger import Ledger

WRITER = """
import sys
from assistant.store.ledger import Ledger
from tests.assistant.store.factory import make_turn
with Ledger.open(sys.argv[1], timeout=60) as ledger:
    for i in range(int(sys.argv[3])):
        turn = make_turn(id=f"{sys.argv[2]}-{i:05d}", conversation=sys.argv[2])
        ledger.open_turn(turn)
        ledger.journal(turn.id, "It", turn.tokens[:1])
        ledger.close_turn(turn)
"""


def test_four_writers(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "25"]) for name in "ABCD"]
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    with Ledger.open(path, read_only=True) as ledger:
        for name in "ABCD":
            ids = [turn.id for turn in ledger.turns(name)]
            assert ids == [f"{name}-{i:05d}" for i in range(25)]
        report = verify(ledger)
        assert (report.problems, report.turns) == ([], 100)
        assert ledger.query("SELECT count(*) FROM opened") == [(0,)]
