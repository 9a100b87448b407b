"""Erased means gone: from the tables, the index and the raw bytes; and the log still verifies and says how much."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from assistant.audit import redact as redact_module
from assistant.audit.redact import redact, residue
from assistant.audit.selection import Selection, by_age, by_conversation, by_pattern, by_rule, by_turn, by_user, select
from assistant.audit.verify import verify
from assistant.errors import LedgerError, UsageError
from assistant.store.ledger import Ledger
from assistant.turn import Turn
from explain.attribution import Attribution
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import BLOCK, make_tokens, make_turn

SECRETS = ("患者张三丰身份证", "xylophonequartz", "玄武岩", "zirconium")


def erase(ledger: Ledger, turns: list[str]) -> redact_module.Erasure:
    return redact(ledger, select(ledger, turns), "asked for")


def secret_turn(ledger: Ledger, **changes: object) -> Turn:
    return log_turn(
        ledger, prompt=f"{SECRETS[0]} 是 {SECRETS[1]}-7731 吗？", reply=f"{SECRETS[2]}和{SECRETS[3]}。" * 20,
        tokens=make_tokens(*SECRETS), **changes,
    )  # fmt: skip


def raw_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def traces(folder: Path) -> list[str]:
    raw = raw_bytes(folder)
    words = [piece for secret in SECRETS for piece in (secret, secret[:4], secret[-4:])]
    return [word for word in words if word.encode() in raw]


def test_nothing_is_left(ledger: Ledger, path: Path) -> None:
    for i in range(30):
        log_turn(ledger, prompt=f"ordinary question {i} 普通问题", reply="a normal answer " * 30)
    turn = secret_turn(ledger)
    for i in range(30):
        log_turn(ledger, prompt=f"another question {i}", reply="更多的文字" * 50)
    assert traces(path.parent)
    erasure = erase(ledger, [turn.id])
    assert (erasure.turns, erasure.parts) == (1, 5)
    assert traces(path.parent) == []
    gone = ledger.turn(turn.id)
    assert (gone.prompt, gone.reply, gone.tokens, gone.system) == ("", "", (), "")
    assert set(gone.erased) == {"prompt", "prompt_detail", "prompt_ids", "reply", "tokens"}
    assert not gone.in_context and gone.prompt_verdict.action == turn.prompt_verdict.action
    assert ledger.search("xylophonequartz") == [] and ledger.search("玄武") == []
    assert len(ledger.search("ordinary", limit=100)) == 30
    report = verify(ledger)
    assert (report.outcome, report.erased) == ("ok", 5)
    assert [row.erased for row in ledger.list_turns(limit=100)].count(True) == 1


def test_two_hundred_erasures_leave_nothing(ledger: Ledger, path: Path) -> None:
    with ledger.exclusive() as connection:
        connection.execute("PRAGMA synchronous = OFF")  # durability is not what is tested here
    turns = [log_turn(ledger, prompt=f"word-{i:03d}-needle 针{i}", reply=f"hay-{i:03d}-stack " * 9) for i in range(200)]
    for turn in turns[::2]:
        erase(ledger, [turn.id])
    erase(ledger, [turn.id for turn in turns[1::2]])
    raw = raw_bytes(path.parent)
    assert b"needle" not in raw and b"stack" not in raw
    assert verify(ledger).outcome == "ok"
    assert ledger.query("SELECT count(*) FROM fts_docsize") == [(0,)]


def test_a_stale_copy_in_the_slack_of_a_page_is_found_and_removed(ledger: Ledger, path: Path) -> None:
    """When SQLite leaves a copy behind, the raw search finds it and the file is written anew."""
    turn = secret_turn(ledger)
    with ledger.exclusive() as connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("CREATE TABLE copy AS SELECT salt, body FROM content WHERE seq IN (SELECT max(seq) FROM content)")
        connection.execute("DROP TABLE copy")
    assert erase(ledger, [turn.id]).rewritten
    assert traces(path.parent) == []


def test_a_text_that_another_turn_repeats_is_no_residue(ledger: Ledger) -> None:
    first, second = (
        log_turn(ledger, prompt="the very same long question"),
        log_turn(ledger, prompt="the very same long question"),
    )
    assert not erase(ledger, [first.id]).rewritten
    assert ledger.turn(second.id).prompt == "the very same long question"


def test_later_turns_lose_what_repeats_the_erased_one(ledger: Ledger) -> None:
    """The ids fed to a later turn, and its explanations, contain the earlier turn."""
    first = secret_turn(ledger)
    later = log_turn(ledger, conversation=first.conversation, parent=first.id)
    other = log_turn(ledger, conversation=first.conversation)
    ledger.record_attribution(later.id, Attribution("ablation", "reply", SECRETS, ("x",), ((1.0,) * 4,)))
    erase(ledger, [first.id])
    kept = ledger.turn(later.id)
    assert (kept.prompt, kept.reply, kept.prompt_ids) == (later.prompt, later.reply, ())
    assert kept.erased == ("prompt_ids",) and kept.in_context
    assert ledger.attributions(later.id) == []
    assert ledger.turn(other.id) == other
    assert verify(ledger).outcome == "ok"


def test_parts_of_a_turn_can_go_alone(ledger: Ledger) -> None:
    turn = secret_turn(ledger)
    seq = ledger.list_turns()[0].seq
    redact(ledger, Selection([turn.id], [(seq, "reply")]), "reply only")
    assert ledger.search("玄武岩") == []
    assert [hit.snippet for hit in ledger.search("xylophonequartz")] == [turn.prompt]
    erase(ledger, [turn.id])
    assert ledger.search("xylophonequartz") == []
    assert verify(ledger).outcome == "ok"


def test_selections(ledger: Ledger) -> None:
    a = log_turn(ledger, prompt="my card is 4111")
    b = log_turn(ledger, conversation=a.conversation, parent=a.id, reply="CARD accepted")
    c = log_turn(ledger, prompt_verdict=BLOCK)
    ledger.rename(a.conversation, "secret title")
    ledger.record_event("review", {"turn": b.id})
    now = ledger.query("SELECT max(ts) + 1 FROM ledger")[0][0]
    assert by_turn(ledger, [a.id[:-1] + a.id[-1:]]) == [a.id]
    assert by_conversation(ledger, a.conversation) == [a.id, b.id]
    assert by_pattern(ledger, r"card") == [a.id, b.id]
    assert by_rule(ledger, "weapons.make") == [c.id]
    assert by_rule(ledger, "nothing") == by_user(ledger, "nobody") == []
    import getpass

    assert by_user(ledger, getpass.getuser()) == [a.id, b.id, c.id]
    assert by_age(ledger, now, ()) == [a.id, b.id, c.id]
    assert by_age(ledger, now, ("flagged", "reviewed")) == [a.id]
    assert by_age(ledger, 0, ()) == []
    with pytest.raises(UsageError, match="regular expression"):
        by_pattern(ledger, "(")
    with pytest.raises(UsageError, match="no conversation"):
        by_conversation(ledger, "none")
    redact(ledger, select(ledger, [a.id, b.id], a.conversation), "all of it")
    assert ledger.conversations()[-1].title == ""
    assert select(ledger, [a.id, b.id], a.conversation) == Selection([], [])


def test_a_turn_that_is_being_written_is_left_alone(ledger: Ledger) -> None:
    turn = make_turn()
    ledger.open_turn(turn)
    with pytest.raises(UsageError, match="still being written"):
        select(ledger, [turn.id])


def test_all_or_nothing(ledger: Ledger, path: Path) -> None:
    turn = secret_turn(ledger)
    selection = select(ledger, [turn.id])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with ledger.exclusive() as connection:
        connection.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(LedgerError, match="locked"):
        redact(ledger, selection, "x")
    other.execute("ROLLBACK")
    other.close()
    assert ledger.turn(turn.id) == turn
    assert [hit.turn for hit in ledger.search("玄武岩")] == [turn.id]


def test_residue_reads_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact_module, "_CHUNK", 10)
    (tmp_path / "x").write_bytes(b"0123456789ABCDEFGHIJ")
    assert residue(tmp_path / "x", [b"789ABC", b"nope", b"IJ"]) == [b"789ABC", b"IJ"]
