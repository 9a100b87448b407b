"""The ledger as the pipeline sees it: what goes in comes back, in every branch, and nothing twice."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.errors import LedgerError, UsageError
from assistant.store.ledger import Ledger
from assistant.turn import Usage
from explain.attribution import Attribution
from safety.verdict import Action, Verdict

from .conftest import log_turn
from .factory import BLOCK, make_tokens, make_turn


def test_every_field_of_a_turn_comes_back(ledger: Ledger) -> None:
    parent = log_turn(ledger)
    turn = make_turn(
        conversation=parent.conversation, parent=parent.id, raw=True, prompt_verdict=BLOCK,
        output_verdict=Verdict(Action.REDACT, 0.5, {"pii": 0.5}, reason="个人信息", policy="p", redacted="[电话]"),
        prompt="我的电话是…\n换行\ttab 😀", reply="好的。", language="zh",
    )  # fmt: skip
    ledger.open_turn(turn)
    ledger.close_turn(turn)
    assert ledger.turn(turn.id) == turn


def test_the_smallest_turn_comes_back(ledger: Ledger) -> None:
    turn = log_turn(
        ledger, prompt="", reply="", tokens=(), prompt_ids=(), system="", notices=(), output_verdict=None,
        usage=Usage(), language="", created_us=0,
    )  # fmt: skip
    assert ledger.turn(turn.id) == turn


def test_what_no_database_takes_is_replaced(ledger: Ledger) -> None:
    turn = log_turn(ledger, prompt="a\x00b\ud800c", reply="\udfff")
    assert ledger.turn(turn.id).prompt == "a␀b\ufffdc"
    assert ledger.turn(turn.id).reply == "\ufffd"


def test_a_turn_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    one = log_turn(ledger, id="01ABCDEF")
    log_turn(ledger, id="01ABXYZ")
    assert ledger.turn("01abc").id == one.id
    with pytest.raises(LedgerError, match="several turns begin with"):
        ledger.turn("01AB")
    with pytest.raises(LedgerError, match="there is no turn"):
        ledger.turn("99")
    with pytest.raises(LedgerError, match="there is no turn"):
        ledger.turn("")


def test_branches(ledger: Ledger) -> None:
    root = log_turn(ledger)
    left = log_turn(ledger, conversation=root.conversation, parent=root.id)
    right = log_turn(ledger, conversation=root.conversation, parent=root.id)
    leaf = log_turn(ledger, conversation=root.conversation, parent=right.id)
    log_turn(ledger)  # another conversation
    assert [t.id for t in ledger.thread(leaf.id)] == [root.id, right.id, leaf.id]
    assert ledger.thread(None) == []
    assert ledger.siblings(left.id) == ledger.siblings(right.id) == [left.id, right.id]
    assert ledger.siblings(root.id) == [root.id]
    assert [t.id for t in ledger.turns(root.conversation)] == [root.id, left.id, right.id, leaf.id]
    latest = ledger.latest_turn(root.conversation)
    assert latest is not None and latest.id == leaf.id
    assert ledger.latest_turn("no such") is None


def test_a_thread_carries_no_tokens_but_everything_else(ledger: Ledger) -> None:
    turn = log_turn(ledger)
    assert ledger.thread(turn.id) == [replace(turn, tokens=(), prompt_ids=())]


def test_conversations_page_by_page(ledger: Ledger) -> None:
    turns = [log_turn(ledger, prompt=f"question {i}") for i in range(5)]
    log_turn(ledger, conversation=turns[0].conversation, prompt_verdict=BLOCK, finish="blocked_prompt")
    first = ledger.conversations(limit=2)
    assert [c.title for c in first] == ["question 0", "question 4"]
    assert (first[0].turns, first[0].flagged) == (2, 1)
    rest = ledger.conversations(limit=9, before=first[-1].id)
    assert [c.title for c in rest] == ["question 3", "question 2", "question 1"]


def test_a_conversation_gets_a_title(ledger: Ledger) -> None:
    turn = log_turn(ledger)
    ledger.rename(turn.conversation, "天气")
    assert ledger.conversations()[0].title == "天气"
    with pytest.raises(LedgerError, match="no conversation"):
        ledger.rename("nowhere", "x")


def test_attributions(ledger: Ledger) -> None:
    turn = log_turn(ledger)
    attribution = Attribution("ablation", "reply", ("a", "b"), ("c",), ((0.1, -2.5e-7),), {"seconds": 0.5}, ("user", "user"))
    ledger.record_attribution(turn.id, attribution)
    assert ledger.attributions(turn.id) == [attribution]


def test_events(ledger: Ledger) -> None:
    seq = ledger.record_event("policy.change", {"policy": "strict@1", "threshold": 0.25}, content={"why": "审计"})
    kind, record = ledger.query("SELECT kind, record FROM ledger WHERE seq = ?", (seq,))[0]
    assert kind == "policy.change" and '"threshold":"0.25"' in record and "审计" not in record
    for kind, fields in (("intent", {}), ("Bad Kind", {}), ("review", {"seq": 1})):
        with pytest.raises(UsageError):
            ledger.record_event(kind, fields)
    with pytest.raises(UsageError):
        ledger.record_event("review", {}, content={"../x": "y"})


def test_misuse_is_refused(ledger: Ledger) -> None:
    turn = log_turn(ledger)
    with pytest.raises(LedgerError, match="already in the log"):
        ledger.open_turn(turn)
    with pytest.raises(LedgerError, match="never opened"):
        ledger.close_turn(make_turn())
    with pytest.raises(LedgerError, match="not open here"):
        ledger.journal("nothing", "x", ())
    ledger.close_turn(turn)  # a second time changes nothing
    assert len(ledger.list_turns()) == 1


def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.list_turns()


def test_in_memory() -> None:
    with Ledger.open(":memory:") as ledger:
        turn = log_turn(ledger)
        assert ledger.recover() == []
        assert ledger.turn(turn.id) == turn


def test_read_only(ledger: Ledger, path: Path) -> None:
    turn = log_turn(ledger)
    with Ledger.open(path, read_only=True) as reader:
        assert reader.turn(turn.id) == turn
        assert reader.recover() == []
        with pytest.raises(LedgerError, match="for reading only"):
            reader.open_turn(make_turn())


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                turn = log_turn(ledger)
                assert ledger.turn(turn.id) == turn
                ledger.list_turns(limit=3)
                ledger.search("sunny", limit=3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(ledger.list_turns(limit=100)) == 40


def test_the_journal_keeps_the_reply_so_far(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.store.journal.SECONDS", 0.0)
    turn = make_turn(tokens=make_tokens("a", "b", "c"))
    ledger.open_turn(turn)
    for i in range(1, 4):
        ledger.journal(turn.id, "abc"[:i], turn.tokens[:i])
    assert ledger.turn(turn.id).reply == "abc"
    assert ledger.turn(turn.id).finish == "interrupted"
    ledger.journal(turn.id, "rewritten", turn.tokens)
    assert ledger.turn(turn.id).reply == "rewritten"
    ledger.close_turn(turn)
    assert ledger.query("SELECT count(*) FROM journal") == [(0,)]
    assert ledger.query("SELECT count(*) FROM opened") == [(0,)]


def test_no_read_leaves_a_lock(ledger: Ledger, path: Path) -> None:
    """Whatever was read, and however, another program can write at once."""
    for _ in range(30):
        turn = log_turn(ledger)
    with Ledger.open(path, read_only=True) as reader:
        reader.list_turns(limit=2)
        reader.search("sunny", limit=2)
        reader.conversations(limit=1)
        reader.turn(turn.id)
        reader.thread(turn.id)
        reader.turns(turn.conversation)
        reader.query("SELECT * FROM ledger")
        with Ledger.open(path, timeout=0.0) as writer:
            log_turn(writer)


def test_pages_are_let_go_of_and_read_again(ledger):
    turn = make_turn()
    ledger.open_turn(turn)
    ledger.release_memory()
    ledger.close_turn(replace(turn, reply="done"))
    ledger.release_memory()
    assert ledger.turn(turn.id).reply == "done"
    ledger.close()
    with pytest.raises(LedgerError, match="the log is closed"):
        ledger.release_memory()
