"""Lists of turns: filters, and pages that no new turn shifts."""

from __future__ import annotations

import pytest

from assistant.errors import UsageError
from assistant.store.ledger import Ledger
from assistant.turn import ModelInfo
from safety.verdict import Action, Verdict

from .conftest import log_turn
from .factory import ALLOW, BLOCK, make_turn


def test_filters(ledger: Ledger) -> None:
    log_turn(ledger, id="A", language="zh")
    log_turn(ledger, id="B", finish="blocked_prompt", prompt_verdict=BLOCK, output_verdict=None)
    log_turn(ledger, id="C", output_verdict=Verdict(Action.CAUTION, 0.6, {"self_harm": 0.6}), conversation="K")
    log_turn(ledger, id="D", model=ModelInfo("qwen3", "00", "int4", "cpu"))
    ledger.record_event("review", {"turn": "C", "label": "fine"})

    def listed(**filters: object) -> str:
        return "".join(row.turn for row in ledger.list_turns(**filters))  # type: ignore[arg-type]

    assert listed() == "DCBA"
    assert listed(language="zh") == "A"
    assert listed(verdict="block") == "B"
    assert listed(verdict="flagged") == "CB"
    assert listed(category="self_harm") == listed(conversation="K") == listed(reviewed=True) == "C"
    assert listed(reviewed=False) == "DBA"
    assert listed(model="qwen3") == "D"
    assert listed(finish="blocked_prompt") == "B"
    with pytest.raises(UsageError, match="verdict must be"):
        listed(verdict="bad")


def test_the_worse_of_two_verdicts_counts(ledger: Ledger) -> None:
    log_turn(ledger, output_verdict=BLOCK, finish="blocked_output")
    (row,) = ledger.list_turns()
    assert (row.verdict, row.category, row.score) == ("block", "weapons", 0.97)


def test_times(ledger: Ledger) -> None:
    log_turn(ledger)
    ts = ledger.query("SELECT max(ts) FROM ledger")[0][0]
    assert len(ledger.list_turns(since=ts)) == 1
    assert ledger.list_turns(since=ts + 1) == []
    assert ledger.list_turns(until=ts) == []


def test_new_turns_do_not_shift_the_next_page(ledger: Ledger) -> None:
    for i in range(6):
        log_turn(ledger, id=str(i))
    first = ledger.list_turns(limit=2)
    log_turn(ledger, id="new")
    second = ledger.list_turns(limit=2, before=first[-1].seq)
    assert [row.turn for row in first + second] == ["5", "4", "3", "2"]


def test_a_row_says_what_the_list_needs(ledger: Ledger) -> None:
    turn = log_turn(ledger, prompt="first line\nsecond   line", reply="好" * 500, prompt_verdict=ALLOW)
    (row,) = ledger.list_turns()
    assert row.prompt == "first line second line"
    assert len(row.reply) == 200 and row.reply.endswith("…")
    assert (row.turn, row.created_us, row.reply_tokens) == (turn.id, turn.created_us, 3)


def test_an_open_turn_is_listed(ledger: Ledger) -> None:
    turn = make_turn()
    ledger.open_turn(turn)
    (row,) = ledger.list_turns()
    assert (row.turn, row.state, row.finish) == (turn.id, "open", "interrupted")


def test_order_is_by_record_and_never_by_clock(path: object) -> None:
    clock = iter([5_000_000_000, *range(4_000_000_000, 0, -1_000_000)])
    with Ledger.open(":memory:", clock=lambda: next(clock)) as ledger:
        for i in range(3):
            log_turn(ledger, id=str(i))
        assert [row.turn for row in ledger.list_turns()] == ["2", "1", "0"]
