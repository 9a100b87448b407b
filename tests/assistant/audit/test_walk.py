"""A log walked in stretches, by several processes, gives what one walk gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assistant.audit import verify as verification
from assistant.audit import walk as walking
from assistant.audit.redact import redact
from assistant.audit.verify import verify
from assistant.audit.walk import Stretch, walk, walk_file
from assistant.store.driver import newest as sqlite3
from assistant.store.ledger import Ledger
from assistant.store.merkle import Frontier
from tests.assistant.audit.test_tampering import GUARDED, attack_file, delete_a_text, drop_one, without_triggers
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import ALLOW, BLOCK

_built: list[bytes] = []


@pytest.fixture
def long(path: Path) -> Path:
    """A log with titles, erasures and several conversations across the borders of stretches; made once."""
    if not _built:
        with Ledger.open(path) as ledger:
            for i in range(20):
                log_turn(ledger, id=f"T{i:02d}", conversation=f"C{i % 3}", prompt_verdict=ALLOW if i % 7 else BLOCK)
                if i % 5 == 0:
                    ledger.rename(f"C{i % 3}", f"title {i}")
            redact(ledger, "T03", "asked")
            redact(ledger, "T17", "asked")
            ledger.checkpoint()
        _built.append(path.read_bytes())
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(_built[0])
    return path


def summary(found: Stretch) -> list[object]:
    return [
        found.tree.size, found.tree.root(), found.edges, found.tally.conversations, dict(found.tally.counts), found.erased,
        found.redacted, found.report.turns, found.report.contents, [p.to_dict() for p in found.report.problems],
    ]  # fmt: skip


@pytest.mark.parametrize("length", [1, 8, 32])
@pytest.mark.parametrize("damage", [None, *GUARDED[:9:2]], ids=lambda a: a.__name__ if a else "sound")
def test_stretches_put_together(long: Path, length: int, damage: Any) -> None:
    if damage is not None:
        attack_file(long, lambda c: without_triggers(c, damage))
    with Ledger.open(long, read_only=True) as ledger:
        size = ledger.query("SELECT max(seq) FROM ledger")[0][0]
        watched = range(1, size + 1)
        whole = walk(ledger.exclusive, 1, size, watched, True)
    pieces = [walk_file(long, first, min(first + length - 1, size), watched, True) for first in range(1, size + 1, length)]
    for piece in pieces[1:]:
        pieces[0].follow(piece)
    assert summary(pieces[0]) == summary(whole)


def test_several_processes(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "STRETCH", 16)
    with Ledger.open(long, read_only=True) as ledger:
        one, two = verify(ledger), verify(ledger, processes=2)
        assert one.to_dict() == two.to_dict() and one.outcome == "ok" and one.turns == 20
    attack_file(long, lambda c: without_triggers(c, delete_a_text))
    attack_file(long, lambda c: without_triggers(c, drop_one))
    with Ledger.open(long, read_only=True) as ledger:
        one, two = verify(ledger), verify(ledger, processes=2)
        assert one.to_dict() == two.to_dict() and one.outcome == "tampered"


@pytest.mark.parametrize("turn", ["T01", "T19"])
def test_an_erasure_while_the_walk_goes_on(long: Path, monkeypatch: pytest.MonkeyPatch, turn: str) -> None:
    """What is erased behind the place where the walk stands, or before it, is no finding."""
    monkeypatch.setattr(walking, "_CONTENT_PAGE", 8)
    monkeypatch.setattr(walking, "_TOLD_EVERY", 8)

    def erase(done: int, total: int) -> None:
        if done == 16:
            with Ledger.open(long) as other:
                redact(other, turn, "meanwhile")

    with Ledger.open(long, read_only=True) as ledger:
        assert verify(ledger, outside=False, progress=erase).problems == []
        assert ledger.turn(turn).erased


def test_a_hash_that_is_no_hash_any_more(long: Path) -> None:
    """A damaged page can turn a blob into a text."""
    attack_file(long, lambda c: without_triggers(c, lambda c: (
        c.execute("PRAGMA writable_schema = ON"),
        c.execute("UPDATE sqlite_master SET sql = replace(sql, 'link BLOB NOT NULL', 'link ANY') WHERE name = 'ledger'"),
        c.execute("PRAGMA writable_schema = OFF"),
    )))  # fmt: skip
    connection = sqlite3.connect(long, isolation_level=None)
    without_triggers(connection, lambda c: c.execute("UPDATE ledger SET link = 'x' || hex(zeroblob(15)) || 'y' WHERE seq = 10"))
    connection.close()
    with Ledger.open(long, read_only=True) as ledger:
        assert {p.seq for p in verify(ledger).problems if p.where == "chain"} == {10, 11}


def test_trees_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="cannot follow"):
        Frontier(3, [b"a", b"b"]).join(Frontier(4, [b"c"]))
