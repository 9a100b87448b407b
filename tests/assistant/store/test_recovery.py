"""A program dies in mid-reply: what it wrote is kept, marked, and the log verifies. A living program is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.audit.verify import verify
from assistant.store import journal
from assistant.store.ledger import Ledger

from .factory import make_tokens, make_turn

CHAT = """
import sys, time
from assistant.store.ledger import Ledger
from assistant.store import journal
from tests.assistant.store.factory import make_tokens, make_turn
journal.SECONDS = 0.0
ledger = Ledger.open(sys.argv[1])
done = make_turn(id="DONE" + sys.argv[2])
ledger.open_turn(done)
ledger.close_turn(done)
turn = make_turn(id="CUT" + sys.argv[2], reply="")
ledger.open_turn(turn)
tokens = make_tokens(*"今天天气很好")
for i in range(1, 7):
    ledger.journal(turn.id, "今天天气很好"[:i], tokens[:i])
print("streaming", flush=True)
time.sleep(60)
"""


def start_chat(path: Path, name: str = "") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CHAT, str(path), name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "streaming\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_kill_in_mid_reply(path: Path) -> None:
    kill(start_chat(path))
    with Ledger.open(path, read_only=True) as auditor:
        assert auditor.turn("CUT").reply == "今天天气很好"
        assert [row.state for row in auditor.list_turns()] == ["open", "closed"]
    with Ledger.open(path) as ledger:
        assert ledger.recover() == ["CUT"]
        turn = ledger.turn("CUT")
        assert (turn.reply, turn.finish) == ("今天天气很好", "interrupted")
        assert turn.tokens == make_tokens(*"今天天气很好")
        assert turn.usage.reply_tokens == 6
        assert [hit.turn for hit in ledger.search("天气很好")] == ["CUT"]
        assert ledger.recover() == []
        report = verify(ledger)
        assert (report.outcome, report.turns) == ("ok", 2)
    assert not list(path.parent.glob("*.live-*"))


def test_a_living_program_is_left_alone(path: Path) -> None:
    chat = start_chat(path)
    try:
        with Ledger.open(path) as ledger:
            assert ledger.recover() == []
    finally:
        kill(chat)
    with Ledger.open(path) as ledger:
        assert ledger.recover() == ["CUT"]


def test_dead_and_living_programs_are_told_apart(path: Path) -> None:
    dead, alive = start_chat(path, "A"), start_chat(path, "B")
    kill(dead)
    try:
        with Ledger.open(path) as ledger:
            assert ledger.recover() == ["CUTA"]
    finally:
        kill(alive)


def test_a_reused_process_number_does_not_count_as_alive(path: Path) -> None:
    """The number of a dead program now belongs to a living one, even to this one."""
    kill(start_chat(path))
    with Ledger.open(path) as ledger:
        with ledger.exclusive() as connection:
            connection.execute("UPDATE process SET pid = ?", (os.getpid(),))
        assert ledger.recover() == ["CUT"]


def test_an_unclosed_turn_of_a_closed_ledger_is_recovered(path: Path) -> None:
    turn = make_turn()
    with Ledger.open(path) as ledger:
        ledger.open_turn(turn)
        ledger.journal(turn.id, "It is", turn.tokens[:2])
        assert ledger.recover() == []  # its own turn, still being written
    with Ledger.open(path) as ledger:
        assert ledger.recover() == [turn.id]
        assert ledger.turn(turn.id).reply == "It is"


def test_a_damaged_journal_loses_only_the_tokens(path: Path) -> None:
    kill(start_chat(path))
    with Ledger.open(path) as ledger:
        with ledger.exclusive() as connection:
            connection.execute("UPDATE journal SET tokens = x'00'")
        assert ledger.recover() == ["CUT"]
        assert ledger.turn("CUT").reply == "今天天气很好"
        assert verify(ledger).outcome == "ok"


def test_dead_programs_are_forgotten_and_living_ones_are_not(path: Path) -> None:
    with Ledger.open(path) as ledger:
        with ledger.exclusive() as connection:
            connection.execute("INSERT INTO process VALUES ('0', 1, 'long ago')")
        chat = start_chat(path)
        try:
            ledger.recover()
            assert [len(id_) for (id_,) in ledger.query("SELECT id FROM process")] == [32]
        finally:
            kill(chat)
        ledger.recover()
        assert ledger.query("SELECT id FROM process") == []


@pytest.mark.parametrize("name", ["ledger.db.live-0"])
def test_a_forgotten_sign_of_nobody_harms_nothing(path: Path, name: str) -> None:
    path.parent.mkdir()
    (path.parent / name).touch()
    with Ledger.open(path) as ledger:
        assert ledger.recover() == []
        assert not (path.parent / name).exists() and len(list(path.parent.glob("*.live-*"))) == 1


def test_replies_under_way_are_written_down_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("assistant.store.ledger.time.monotonic", lambda: now[0])
    monkeypatch.setattr(journal, "SECONDS", 0.5)
    with Ledger.open(path) as ledger:
        turns = [make_turn(id=f"T{i}", tokens=make_tokens("a", "b", "c")) for i in range(3)]
        growing = list(turns[1].tokens[:1])
        for turn in turns:
            ledger.open_turn(turn)
        ledger.journal("T0", "a", turns[0].tokens[:1])  # the first is written at once
        ledger.journal("T1", "a", growing)
        growing += turns[1].tokens[1:]  # what comes after the call belongs to the next time
        ledger.journal("T2", "a", turns[2].tokens[:1])
        ledger.close_turn(turns[2])
        assert ledger.query("SELECT turn, text FROM journal") == [("T0", "a")]
        now[0] += 0.5
        ledger.journal("T0", "ab", turns[0].tokens[:2])
        rows = ledger.query("SELECT turn, step, text FROM journal ORDER BY turn, step")
        assert rows == [("T0", 0, "a"), ("T0", 1, "b"), ("T1", 0, "a")]
        assert len(journal.read(ledger._connection, "T1")[1]) == 1 and ledger.turn("T0").reply == "ab"


def test_a_reply_that_was_closed_meanwhile_is_not_written_down(path: Path) -> None:
    turn = make_turn(id="T", tokens=make_tokens("a"))
    with Ledger.open(path) as ledger:
        ledger.open_turn(turn)
        progress = ledger._progress["T"]
        ledger.close_turn(turn)
        progress.latest = "a", turn.tokens, 1
        journal.write(ledger._connection, {"T": progress})
        assert ledger.query("SELECT count(*) FROM journal") == [(0,)]
