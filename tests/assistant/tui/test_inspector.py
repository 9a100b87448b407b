"""The inspector: explains in the background, keeps what is known, can be cancelled, and reads without colour."""

from assistant.errors import ExplanationError
from tests.assistant.tui.fakes import FakeSession, MemoryLedger, attribution_of, make_turn
from tests.assistant.tui.screens import running, shows, text_of, wait_until

TURN = make_turn(1, "为什么天空是蓝色的？", "Rayleigh scattering, 因为蓝光散射得更多。", None, "C1", system="Be brief.")


def session(**changes):
    return FakeSession(ledger=MemoryLedger([TURN]), **changes)


async def opened(pilot):
    await shows(pilot, "Rayleigh")
    await pilot.press("f3")
    await shows(pilot, "what it came from")


async def test_f3_explains_the_last_reply_and_marks_the_strongest_words():
    fake = session()
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        screen = text_of(pilot.app)
        assert "¹" in screen and "²" in screen and "system ▸ Be" in screen and "you ▸" in screen
        assert "<|im_start|>" not in screen
        assert "grade ✓ supported" in screen and "completeness error 0.02" in screen
        assert fake.explained == [("T0001", "ablation", None)]


async def test_the_quality_card_is_there_on_a_terminal_of_any_height():
    for size in ((80, 24), (80, 16), (60, 12)):
        async with running(session(), size, conversation="C1") as pilot:
            await opened(pilot)
            await shows(pilot, "grade ✓ supported")


async def test_picking_a_word_uses_the_matrix_that_is_there():
    fake = session()
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        before = text_of(pilot.app)
        await pilot.press("right", "right")
        await wait_until(pilot, lambda: text_of(pilot.app) != before)
        assert "● " in text_of(pilot.app) and "else" in text_of(pilot.app)
        assert len(fake.explained) == 1
        await pilot.press("w")
        await shows(pilot, "whole reply")


async def test_a_stored_explanation_is_not_computed_again():
    fake = session()
    fake.ledger.kept["T0001"] = [attribution_of(TURN)]
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        assert fake.explained == []


async def test_the_other_method_is_computed_when_asked_for():
    fake = session()
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        await pilot.press("m")
        await shows(pilot, "Not explained yet: press Enter.")
        await pilot.press("enter")
        await wait_until(pilot, lambda: fake.explained[-1][1] == "integrated-gradients" and "³" in text_of(pilot.app))
        await shows(pilot, "integrated gradients")


async def test_words_sentences_and_turns():
    async with running(session(), conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        for level in ("words", "sentences", "turns", "tokens"):
            await pilot.press("l")
            await shows(pilot, f"ablation · {level}")


async def test_a_computation_can_be_cancelled_and_leaving_cancels_it():
    fake = session()
    fake.explain_gate.clear()
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "explaining: perturbing ██████████░░░░░░░░░░ 50%")
        await shows(pilot, "Esc Stop")
        await pilot.press("escape")
        await shows(pilot, "The explanation was cancelled.")
        await shows(pilot, "Esc Back")
        await pilot.press("escape")
        await shows(pilot, "Write a message…")


async def test_an_error_is_told_in_place():
    fake = session()
    fake.explain_error = ExplanationError("another model is loaded [/x] \x1b[2J")
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "another model is loaded [/x] ␛[2J")


async def test_a_click_picks_a_word():
    async with running(session(), conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        await pilot.click("#reply-tokens", offset=(5, 0))
        await wait_until(pilot, lambda: pilot.app.screen._picked == 1)


async def test_a_withdrawn_reply_cannot_be_inspected():
    blocked = make_turn(1, "q", "I can't help.", None, "C1", finish="blocked_output")
    async with running(FakeSession(ledger=MemoryLedger([blocked])), conversation="C1") as pilot:
        await shows(pilot, "I can't help.")
        await pilot.press("f3")
        await shows(pilot, "This turn has no reply")


async def test_the_strip_says_that_there_is_an_attribution():
    async with running(session(), conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        await pilot.press("escape")
        await shows(pilot, "✓ attribution")


async def test_a_reply_of_a_thousand_tokens_is_picked_through():
    turn = make_turn(1, "q", "字" * 4000, None, "C1")
    async with running(FakeSession(ledger=MemoryLedger([turn])), conversation="C1") as pilot:
        await wait_until(pilot, lambda: pilot.app.chat.branch.tip is not None)
        await pilot.press("f3")
        await shows(pilot, "³")
        await pilot.press("end", "left")
        await wait_until(pilot, lambda: pilot.app.screen._picked == 998)


async def test_one_word_is_held_against_another_candidate():
    fake = session()
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        await pilot.press("y")
        await shows(pilot, "Pick one word of the reply")
        await pilot.press("right", "y")
        await shows(pilot, "“Rayl” rather than “else”")
        assert "◇ " in text_of(pilot.app) and "Not explained yet" in text_of(pilot.app)
        await pilot.press("enter")
        await shows(pilot, "³")
        assert fake.ledger.kept["T0001"][-1].target == "token 0 not 100008"
        await pilot.press("y", "y")
        assert "rather than" not in text_of(pilot.app)


async def test_leaving_a_word_out_shows_the_true_change():
    fake = session()
    async with running(fake, conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        await pilot.press("right", "n")
        await shows(pilot, "Pick a word of the reply")
        await pilot.press("full_stop", "full_stop", "n")
        await shows(pilot, "probability 0.607 → 0.135 (-1.50 nats)")
        assert "then it would be" in text_of(pilot.app) and fake.ablated[0][2] == 0
        await pilot.press("right")
        assert "then it would be" not in text_of(pilot.app)
        fake.explain_error = ExplanationError("this explanation belongs to another prompt")
        await pilot.press("n")
        await shows(pilot, "belongs to another prompt")


async def test_the_audit_and_the_help_are_a_key_away():
    async with running(session(), conversation="C1") as pilot:
        await opened(pilot)
        await shows(pilot, "³")
        await pilot.press("f4")
        await shows(pilot, "Audit log")
        await pilot.press("escape")
        await shows(pilot, "what it came from")
        await pilot.press("f1")
        await shows(pilot, "Esc closes this page")
