"""The screens on the real ledger: what they ask of it, it answers."""

import json
from dataclasses import replace

import pytest

from assistant.audit.remarks import remarks
from assistant.audit.review import login_name, reviews
from assistant.pipeline import new_id
from assistant.store.ledger import Ledger
from assistant.tui import auditing
from assistant.tui.searching import every_turn, parse
from safety.verdict import Action, Verdict
from tests.assistant.tui.fakes import MODEL, FakeSession, attribution_of, make_turn
from tests.assistant.tui.screens import running, settled, shows, text_of, wait_until


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.db") as opened:
        yield opened


def write(ledger, prompt, reply, conversation, parent=None, **changes):
    turn = replace(make_turn(1, prompt, reply, parent, conversation, **changes), id=new_id())
    ledger.open_turn(turn)
    ledger.close_turn(turn)
    return turn


async def test_branches_search_explanations_and_the_audit(ledger):
    first = write(ledger, "为什么天空是蓝的？", "因为散射。", "C1")
    write(ledger, "And at sunset?", "A longer way.", "C1", first.id)
    second = write(ledger, "And at sunset?", "More air to cross.", "C1", first.id)
    write(
        ledger,
        "bad",
        "no",
        "C2",
        finish="blocked_prompt",
        tokens=(),
        output_verdict=None,
        prompt_verdict=Verdict(Action.BLOCK, 0.9, {"attack": 0.9}),
    )
    ledger.record_attribution(second.id, attribution_of(second))
    session = FakeSession(ledger=ledger)
    async with running(session, conversation="C1") as pilot:
        await shows(pilot, "More air to cross.")
        assert "‹ 2/2 ›" in text_of(pilot.app) and "mean p" in text_of(pilot.app)
        await pilot.press("alt+up", "left_square_bracket")
        await shows(pilot, "A longer way.")
        await pilot.press("alt+up", "right_square_bracket")
        await shows(pilot, "More air")
        await pilot.press("f3")
        await shows(pilot, "³")
        assert session.explained == []
        await pilot.press("escape", "ctrl+f", *"天空")
        await wait_until(pilot, lambda: "bad" not in text_of(pilot.app))
        await pilot.press("enter", "down", "enter")
        await shows(pilot, "为什么天空是蓝的？")
        await pilot.press("f4")
        await shows(pilot, "4 turns")
        await pilot.press("v")
        await shows(pilot, "records sound")
        await pilot.press("f")
        await shows(pilot, "flagged · 1 turn")
        await pilot.press("w")
        await shows(pilot, "Is the text that was judged safe?")
        await pilot.press("enter")
        await wait_until(pilot, lambda: ledger.list_turns(reviewed=True, limit=5))


async def test_a_note_and_a_reason_are_in_the_log_and_in_the_trace(ledger):
    turn = write(ledger, "my secret plan", "noted", "C1")
    async with running(FakeSession(ledger=ledger), size=(120, 60)) as pilot:
        await pilot.press("f4")
        await shows(pilot, "prompt filter")
        await pilot.press("w", "down", "tab", *"too [/x] lenient", "enter")
        await shows(pilot, "judged by a person · message · Unsafe")
        await shows(pilot, "too [/x] lenient")
        (review,) = reviews(ledger)
        assert (review.label, review.note, review.reviewer) == ("unsafe", "too [/x] lenient", login_name())
        await pilot.press("r")
        pilot.app.screen.query_one("Input").value = "asked \x1b[2J"
        pilot.app.screen.query_one("#cancel").focus()
        await pilot.press("y")
        await shows(pilot, "texts erased")
        await shows(pilot, "asked ␛[2J")
        assert "secret" not in text_of(pilot.app)
    assert [(r.kind, r.text) for r in remarks(ledger, turn.id)][-1] == ("redact", "asked ␛[2J")


async def test_a_deleted_conversation_is_gone_from_list_and_search(ledger):
    write(ledger, "my secret plan", "noted", "C1")
    write(ledger, "weather", "fine", "C2")
    async with running(FakeSession(ledger=ledger), conversation="C1") as pilot:
        await shows(pilot, "noted")
        await pilot.app.chat.action_command("delete")
        await shows(pilot, "erased for good")
        await pilot.press("y")
        await shows(pilot, "a chat you can see through")
        await wait_until(pilot, lambda: "secret" not in text_of(pilot.app))
        assert ledger.search("secret") == []
        await settled(pilot)


async def test_one_turn_is_deleted_and_said_to_be(ledger):
    first = write(ledger, "my secret plan", "noted", "C1")
    write(ledger, "go on", "gladly", "C1", first.id)
    async with running(FakeSession(ledger=ledger), conversation="C1") as pilot:
        await shows(pilot, "gladly")
        await pilot.press("alt+up", "alt+up", "d")
        await shows(pilot, "this turn are erased")
        await pilot.press("y")
        await shows(pilot, "(erased)")
        assert "secret" not in text_of(pilot.app) and "gladly" in text_of(pilot.app)


def test_the_questions_of_the_box_are_answered_by_the_real_log(ledger):
    for n, (prompt, model) in enumerate((("退款流程", "a"), ("refund please", "a"), ("退款多久", "b")), 1):
        turn = replace(make_turn(n, prompt, "好的"), model=replace(MODEL, name=model))
        ledger.open_turn(turn)
        ledger.close_turn(turn)
    found = {
        text: list(every_turn(ledger, parse(text), page=1)) for text in ("退款", "model:a", "退款 model:a", "lang:en", "", "verdict:block")
    }
    assert found == {
        "退款": ["T0003", "T0001"], "model:a": ["T0002", "T0001"], "退款 model:a": ["T0001"], "lang:en": ["T0002"],
        "": ["T0003", "T0002", "T0001"], "verdict:block": [],
    }  # fmt: skip
    auditing.note_export(ledger, "out.jsonl", parse("lang:en since:7d").filters)
    (record,) = [json.loads(text) for (text,) in ledger.query("SELECT record FROM ledger WHERE kind = 'export'")]
    assert record["format"] == "jsonl" and record["filter"]["language"] == "en" and record["filter"]["since"] > 0
    assert auditing.check(ledger).sound
