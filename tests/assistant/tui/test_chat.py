"""The chat screen, driven by keys: sending, stopping, queueing, blocking, branching, errors. Nothing written is ever lost."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from textual.events import Paste

from assistant.errors import LedgerError, ModelError
from assistant.settings import Settings
from assistant.tui import models
from assistant.tui.screens.dialogs import MessageDialog
from assistant.tui.widgets.markdown import CodeBlock
from safety.verdict import Action, Finding, Verdict
from tests.assistant.tui.fakes import FakeSession, MemoryLedger, Script, make_turn
from tests.assistant.tui.screens import idle, running, say_to, shows, text_of, wait_until

BLOCK = Verdict(
    Action.BLOCK,
    0.93,
    {"weapons": 0.93, "violence": 0.31},
    (Finding("weapons", "en.explosive", 14, 18, 0.93),),
    "This asks how to build a weapon.",
    "balanced@1a2b3c4d",
)
CAUTION = Verdict(Action.CAUTION, 0.62, {"medical": 0.62}, (), "This is about health.", "balanced@1a2b3c4d")


async def test_a_prompt_is_answered_and_everything_about_it_is_shown():
    session = FakeSession(scripts=[Script("The sky is **blue**.\n\nShort waves scatter more.")])
    async with running(session) as pilot:
        await say_to(pilot, "Why is the sky blue?")
        await shows(pilot, "✓ complete")
        await idle(pilot)
        screen = text_of(pilot.app)
        assert "Why is the sky blue?" in screen
        assert "The sky is blue." in screen and "Short waves scatter more." in screen
        assert "✓ prompt 0.02" in screen and "✓ output 0.02" in screen
        assert "~0.9 J/tok" in screen
        assert pilot.app.chat.prompt.text == ""
        assert session.requests[0].prompt == "Why is the sky blue?"


async def test_the_next_prompt_follows_the_last_turn():
    session = FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, "one")
        await idle(pilot)
        await say_to(pilot, "two")
        await idle(pilot)
        assert session.requests[1].parent == "T0001"
        assert session.requests[1].conversation == session.ledger.all["T0001"].conversation


async def test_escape_stops_and_the_part_written_is_kept():
    session = FakeSession(scripts=[Script("one two three four five", gate_after=3)])
    async with running(session) as pilot:
        await say_to(pilot, "count")
        await shows(pilot, "one two thre")
        await pilot.press("escape")
        await shows(pilot, "■ stopped")
        await idle(pilot)
        assert "one two thre" in text_of(pilot.app)
        assert session.ledger.all["T0001"].finish == "stopped"
        session.scripts = [Script(" and six", gate_after=None)]
        await say_to(pilot, "/continue")
        await idle(pilot)
        asked = session.requests[1]
        assert (asked.continues, asked.parent, asked.prompt) == ("T0001", None, "count")
        assert "one two thre and six" in text_of(pilot.app) and "‹ 2/2 ›" in text_of(pilot.app)
        await say_to(pilot, "/continue")
        await shows(pilot, "was not cut")
        assert len(session.requests) == 2


BLOCKED = Verdict(Action.BLOCK, 0.95, {"harassment": 0.95}, (), "An insult.", "balanced@1a2b3c4d")


async def test_a_withdrawn_reply_is_shown_anyway_where_the_policy_allows_it_and_the_log_says_so():
    session = FakeSession(scripts=[Script("you are a fool", output_verdict=BLOCKED, block_after=2)])
    async with running(session) as pilot:
        await say_to(pilot, "insult me")
        await idle(pilot)
        assert "you are a" not in text_of(pilot.app) and "a: show it anyway" in text_of(pilot.app)
        await pilot.press("alt+up", "a")
        await shows(pilot, "you are a")
        assert session.ledger.events == [
            ("reply.show", {"turn": "T0001", "conv": "C1", "category": "harassment", "policy": "balanced@1a2b3c4d"})
        ]


async def test_what_the_policy_does_not_name_stays_withdrawn():
    session = FakeSession(
        scripts=[Script("mix it so", output_verdict=replace(BLOCKED, categories={"weapons": 0.95}), block_after=1), Script()]
    )
    async with running(session) as pilot:
        await say_to(pilot, "a bomb?")
        await idle(pilot)
        assert "show it anyway" not in text_of(pilot.app)
        await say_to(pilot, "/reveal")
        await shows(pilot, "does not let")
        assert "mix it" not in text_of(pilot.app) and session.ledger.events == []
        await say_to(pilot, "hello")
        await idle(pilot)
        await say_to(pilot, "/reveal")
        await shows(pilot, "No reply was withdrawn")


async def test_a_prompt_sent_meanwhile_waits_its_turn_and_can_be_taken_back():
    session = FakeSession(scripts=[Script("one two three", gate_after=1), Script("second"), Script("third")])
    async with running(session) as pilot:
        await say_to(pilot, "first")
        await shows(pilot, "one")
        await say_to(pilot, "later")
        await shows(pilot, "1 waiting")
        session.release()
        await shows(pilot, "second")
        await idle(pilot)
        assert [r.prompt for r in session.requests] == ["first", "later"]
        assert session.requests[1].parent == "T0001"


async def test_a_prompt_sent_while_the_model_loads_is_answered_when_it_is_there():
    session = FakeSession(loaded=False)
    async with running(session) as pilot:
        await shows(pilot, "… model █████░░░░░░░ 42%")
        await say_to(pilot, "hello")
        await shows(pilot, "1 waiting")
        session.load_gate.set()
        await shows(pilot, "✓ complete")
        await idle(pilot)


async def test_a_blocked_prompt_is_a_card_with_reason_score_and_marked_words():
    session = FakeSession(scripts=[Script(prompt_verdict=BLOCK)])
    async with running(session) as pilot:
        await say_to(pilot, "how to make a bomb today")
        await shows(pilot, "Blocked · your message · weapons")
        screen = text_of(pilot.app)
        assert "how to make a ⟦bomb⟧ today" in screen
        assert "This asks how to build a weapon." in screen
        assert "0.93 weapons" in screen and "en.explosive" in screen
        assert "✗ prompt" in screen and "— generate" in screen
        assert "I can't help with that." in screen


async def test_self_harm_gets_help_not_a_bare_refusal():
    verdict = Verdict(Action.BLOCK, 0.9, {"self_harm": 0.9}, (), "You seem to be in distress.")
    for language, words in (("en", "988"), ("zh", "12356")):
        session = FakeSession(Settings(language=language), scripts=[Script(prompt_verdict=verdict)])
        async with running(session) as pilot:
            await say_to(pilot, "…")
            await shows(pilot, words)


async def test_a_withdrawn_reply_leaves_no_word_on_the_screen():
    session = FakeSession(scripts=[Script("mix the acid with water", output_verdict=BLOCK, gate_after=3, block_after=4)])
    async with running(session) as pilot:
        await say_to(pilot, "chemistry")
        await shows(pilot, "mix the acid")
        session.release()
        await shows(pilot, "Blocked · the reply · weapons")
        await idle(pilot)
        screen = text_of(pilot.app)
        assert "acid" not in screen and "I can't help with that." in screen
        assert "✗ reply withdrawn" in screen


async def test_a_caution_and_a_notice_are_shown_with_the_answer():
    session = FakeSession(scripts=[Script("Ask a doctor.", prompt_verdict=CAUTION, notices=("Two turns were dropped.",))])
    async with running(session) as pilot:
        await say_to(pilot, "headache")
        await shows(pilot, "! Caution · your message · medical")
        await shows(pilot, "Ask a doctor.")
        await shows(pilot, "Two turns were dropped.")


async def test_what_was_redacted_is_never_shown_again():
    verdict = Verdict(
        Action.REDACT, 1.0, {"privacy": 1.0}, (Finding("privacy", "phone", 8, 19, 1.0),), "A number.", redacted="call me <PHONE>"
    )
    session = FakeSession(scripts=[Script(prompt_verdict=verdict)])
    async with running(session) as pilot:
        await say_to(pilot, "call me 13800138000")
        await shows(pilot, "call me <PHONE>")
        assert "13800138000" not in text_of(pilot.app)
        assert "~ Redacted" in text_of(pilot.app)


async def test_regenerating_makes_a_sibling_and_the_brackets_go_between():
    session = FakeSession(scripts=[Script("first answer"), Script("second answer")])
    async with running(session) as pilot:
        await say_to(pilot, "question")
        await idle(pilot)
        await pilot.press("ctrl+r")
        await shows(pilot, "‹ 2/2 ›")
        await idle(pilot)
        assert session.requests[1].parent is None and session.requests[1].prompt == "question"
        assert session.requests[1].conversation == session.ledger.all["T0001"].conversation
        assert "second answer" in text_of(pilot.app) and "first answer" not in text_of(pilot.app)
        await pilot.press("alt+up", "left_square_bracket")
        await shows(pilot, "first answer")
        assert "‹ 1/2 ›" in text_of(pilot.app)
        await pilot.press("alt+up", "right_square_bracket")
        await shows(pilot, "second answer")


async def test_editing_sends_a_branch_and_keeps_the_old_one():
    session = FakeSession(scripts=[Script("A"), Script("B"), Script("C")])
    async with running(session) as pilot:
        for text in ("one", "two"):
            await say_to(pilot, text)
            await idle(pilot)
        await pilot.press("alt+up", "e")
        await wait_until(pilot, lambda: pilot.app.chat.prompt.text == "two")
        assert "editing" in text_of(pilot.app)
        pilot.app.chat.prompt.load_text("two, better")
        await pilot.press("enter")
        await idle(pilot)
        assert session.requests[2].parent == "T0001"
        await shows(pilot, "‹ 2/2 ›")
        assert set(session.ledger.all) == {"T0001", "T0002", "T0003"}


async def test_earlier_prompts_come_back_with_the_arrows_and_the_draft_is_kept():
    session = FakeSession()
    async with running(session) as pilot:
        for text in ("one", "two"):
            await say_to(pilot, text)
            await idle(pilot)
        prompt = pilot.app.chat.prompt
        prompt.load_text("draft")
        await pilot.press("up", "up")
        assert prompt.text == "one"
        await pilot.press("down", "down")
        assert prompt.text == "draft"


async def test_ctrl_j_makes_a_new_line_and_the_box_grows():
    session = FakeSession()
    async with running(session) as pilot:
        await pilot.press("a", "ctrl+j", "b", "ctrl+j", "c")
        prompt = pilot.app.chat.prompt
        assert prompt.text == "a\nb\nc" and prompt.size.height == 3
        await pilot.press("enter")
        await idle(pilot)
        assert session.requests[0].prompt == "a\nb\nc" and prompt.size.height == 1


async def test_a_model_that_cannot_be_loaded_is_told_and_survived():
    session = FakeSession(loaded=False, load_error=ModelError("the model file is damaged: run pellucid models pull"))
    async with running(session) as pilot:
        await say_to(pilot, "hello")
        session.load_gate.set()
        await shows(pilot, "the model file is damaged")
        assert isinstance(pilot.app.screen, MessageDialog)
        await pilot.press("escape")
        await shows(pilot, "is not loaded")
        assert pilot.app.chat.prompt.text == "hello"
        session.load_error = None
        await pilot.press("enter")
        await shows(pilot, "✓ complete")


@pytest.mark.parametrize("after", [0, 2])
async def test_an_engine_that_fails_is_told_and_the_prompt_stays(after):
    session = FakeSession(scripts=[Script("some words here", error=ModelError("out of memory"), error_after=after)])
    async with running(session) as pilot:
        await say_to(pilot, "my long question")
        await shows(pilot, "out of memory")
        await pilot.press("escape")
        await idle(pilot)
        assert pilot.app.chat.prompt.text == "my long question"
        if after:
            await shows(pilot, "some wor")
            await shows(pilot, "✗ failed")


async def test_a_bug_in_the_engine_is_a_dialog_too():
    session = FakeSession(scripts=[Script(error=RuntimeError("[/x] tensor \x1b[2J"))])
    async with running(session) as pilot:
        await say_to(pilot, "q")
        await shows(pilot, "RuntimeError: [/x] tensor ␛[2J")


async def test_conversations_are_listed_searched_and_opened():
    ledger = MemoryLedger([make_turn(1, "天空为什么是蓝的", "散射", None, "C1"), make_turn(2, "Refund please", "Sure", None, "C2")])
    async with running(FakeSession(ledger=ledger)) as pilot:
        await shows(pilot, "Refund please")
        await pilot.press("ctrl+f")
        for character in "天空":
            await pilot.press(character)
        await wait_until(pilot, lambda: "Refund" not in text_of(pilot.app))
        await pilot.press("enter", "down", "enter")
        await shows(pilot, "散射")
        assert pilot.app.chat.branch.conversation == "C1"


async def test_a_search_goes_on_below_its_first_page():
    turns = [make_turn(n, f"needle {n}" if n % 2 else f"other {n}", "x", None, f"C{n}") for n in range(1, 262)]
    async with running(FakeSession(ledger=MemoryLedger(turns))) as pilot:
        await pilot.press("ctrl+f", *"needle")
        rows = pilot.app.chat.sidebar.query_one("OptionList")
        await wait_until(pilot, lambda: rows.option_count == 50 and "needle" in text_of(pilot.app))
        await pilot.press("enter", "end")
        await wait_until(pilot, lambda: rows.option_count == 100)
        await pilot.press("end")
        await wait_until(pilot, lambda: rows.option_count == 131)  # all of them, none twice
        await pilot.press("end")
        assert rows.option_count == 131
        targets = pilot.app.chat.sidebar._targets
        assert targets == [(f"C{n}", f"T{n:04d}") for n in range(261, 0, -2)]
        await pilot.press("enter")
        await wait_until(pilot, lambda: pilot.app.chat.branch.conversation == "C1")
        assert rows.option_count == 131  # the next hit is where it was
        await pilot.press("ctrl+f", *"26")  # another search begins at its own top
        await wait_until(pilot, lambda: rows.option_count == 5)
        await pilot.press("enter", "end", "ctrl+f", *"zzz")
        await shows(pilot, "Nothing found")


async def test_a_page_of_a_search_that_cannot_be_read_is_told_and_the_hits_stay():
    ledger = MemoryLedger([make_turn(n, f"needle {n}", "x", None, f"C{n}") for n in range(1, 80)])
    found = ledger.search

    def search(query, *, limit=20, before=None, **filters):
        if before is not None:
            raise LedgerError("the log is closed: open it again")
        return found(query, limit=limit, **filters)

    ledger.search = search
    async with running(FakeSession(ledger=ledger)) as pilot:
        await pilot.press("ctrl+f", *"needle")
        rows = pilot.app.chat.sidebar.query_one("OptionList")
        await wait_until(pilot, lambda: rows.option_count == 50 and "needle" in text_of(pilot.app))
        await pilot.press("enter", "end")
        await shows(pilot, "the log is closed")
        assert rows.option_count == 50


async def test_a_conversation_given_at_the_start_is_opened_and_continued():
    ledger = MemoryLedger([make_turn(1, "hi", "there", None, "C1", system="Be a pirate.")])
    session = FakeSession(ledger=ledger)
    async with running(session, conversation="C1") as pilot:
        await shows(pilot, "there")
        await say_to(pilot, "go on")
        await idle(pilot)
        assert session.requests[0].parent == "T0001" and session.requests[0].system == "Be a pirate."


async def test_an_interrupted_reply_is_marked_when_it_is_seen_again():
    ledger = MemoryLedger([make_turn(1, "hi", "half a sen", None, "C1", finish="interrupted")])
    async with running(FakeSession(ledger=ledger), conversation="C1") as pilot:
        await shows(pilot, "■ interrupted")


async def test_only_a_window_of_a_long_conversation_is_mounted():
    turns = [make_turn(n, f"question {n}", f"answer {n}", f"T{n - 1:04d}" if n > 1 else None) for n in range(1, 301)]
    async with running(FakeSession(ledger=MemoryLedger(turns)), conversation="C1") as pilot:
        await shows(pilot, "answer 300")
        assert len(pilot.app.chat.transcript.views) == 10
        await pilot.app.chat.transcript.load_earlier()
        await wait_until(pilot, lambda: len(pilot.app.chat.transcript.views) == 20)
        pilot.app.chat.transcript.views[0].focus()
        await pilot.press("alt+up", "alt+up")
        await wait_until(pilot, lambda: "question 279" in text_of(pilot.app))


async def test_slash_commands_and_wrong_ones():
    session = FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, "/nwe")
        await shows(pilot, "Did you mean /new?")
        assert pilot.app.chat.prompt.text == "/nwe"
        await say_to(pilot, "/set temperature 0.1")
        await shows(pilot, "temperature = 0.1")
        await say_to(pilot, "/set top_k many")
        await shows(pilot, "top_k must be a int")
        await say_to(pilot, "/system Be brief.")
        await say_to(pilot, "/etc/hosts is a file?")
        await idle(pilot)
        request = session.requests[0]
        assert (request.prompt, request.system, request.sampling.temperature) == ("/etc/hosts is a file?", "Be brief.", 0.1)


async def test_the_language_and_the_theme_are_switched_live():
    async with running(FakeSession(scripts=[Script(prompt_verdict=CAUTION)])) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        await say_to(pilot, "/language zh")
        await shows(pilot, "输入消息…")
        assert "新对话" in text_of(pilot.app) and "注意 · 你的消息" in text_of(pilot.app) and "完成" in text_of(pilot.app)
        await say_to(pilot, "/theme pellucid-light")
        await wait_until(pilot, lambda: pilot.app.theme == "pellucid-light")


async def test_a_persona_sets_prompt_sampling_and_policy():
    session = FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, "/persona medical")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "medical")
        await say_to(pilot, "headache")
        await idle(pilot)
        assert "medical information" in session.requests[0].system and session.requests[0].sampling.temperature == 0.2
        assert "Medical information" in text_of(pilot.app)


async def test_a_persona_holds_for_its_conversations_and_no_longer():
    session = FakeSession()
    async with running(session) as pilot:
        state = pilot.app.chat.state
        await say_to(pilot, "/persona writing")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "writing")
        assert (state.sampling.temperature, state.sampling.max_tokens) == (1.0, 1024)
        await say_to(pilot, "/persona medical")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "medical")
        assert (state.sampling.top_p, state.sampling.max_tokens) == (0.9, 512)  # nothing of the writer is left
        await say_to(pilot, "/set top_k 7")
        await say_to(pilot, "headache")
        await idle(pilot)
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "balanced")
        assert "Medical information" not in text_of(pilot.app) and pilot.app.chat.state.sampling.top_k == 40
        pilot.app.chat.open_conversation("C1")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "medical")
        await shows(pilot, "Medical information")
        assert pilot.app.chat.state.sampling.top_k == 7 and pilot.app.chat.state.sampling.seed is None


async def test_the_persons_own_policy_comes_back_after_a_persona():
    session = FakeSession()
    async with running(session) as pilot:
        pilot.app.chat.change_setting("policy", "strict")
        await wait_until(pilot, lambda: session.ready)
        await say_to(pilot, "/persona finance")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "finance")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: session.ready and session.settings.policy == "strict")


async def test_what_is_changed_while_a_reply_is_written_is_loaded_after_it():
    session = FakeSession(scripts=[Script("one two three four", gate_after=2)])
    async with running(session) as pilot:
        await say_to(pilot, "count")
        await shows(pilot, "one two")
        await say_to(pilot, "/persona medical")
        await say_to(pilot, "and then?")
        assert not session.ready
        session.release()
        await idle(pilot)
        assert session.ready and len(session.requests) == 2


async def test_another_model_is_loaded_on_the_spot(tmp_path):
    session = FakeSession()
    file = tmp_path / "other.gguf"
    file.touch()
    async with running(session) as pilot:
        await say_to(pilot, f"/model {file}")
        await wait_until(pilot, lambda: session.engine is not None and session.engine.info.name == str(file))
        await say_to(pilot, "/model nosuch")
        await shows(pilot, "there is no model called")


class Fetching:
    """Stands for the network: moves as far as the test lets it."""

    def __init__(self, monkeypatch, error=None):
        self.go, self.stopped, self.error = threading.Event(), False, error
        monkeypatch.setattr(models, "fetch", self)

    def __call__(self, name, progress, stop):
        progress(f"fetching {name}", 0.42)
        while not self.go.wait(0.01):
            if stop.is_set():
                self.stopped = True
                raise models.Stopped
        if self.error:
            raise self.error


async def test_a_model_that_is_not_here_is_fetched_when_the_person_agrees(monkeypatch):
    fetching, session = Fetching(monkeypatch), FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, "/model qwen3-0.6b")
        await shows(pilot, "Apache-2.0")
        await pilot.press("escape")
        assert session.settings.model == "smollm2-135m"
        await say_to(pilot, "/model qwen3-0.6b")
        await pilot.press("y")
        await shows(pilot, "42%")
        fetching.go.set()
        await shows(pilot, "qwen3-0.6b ·")
        assert session.ready and session.settings.model == "qwen3-0.6b"


async def test_fetching_can_be_stopped_and_can_fail(monkeypatch):
    fetching, session = Fetching(monkeypatch, ModelError("cannot fetch it [/x]: check the network")), FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, "/model qwen3-0.6b")
        await pilot.press("y")
        await shows(pilot, "42%")
        await pilot.press("escape")
        await wait_until(pilot, lambda: fetching.stopped)
        await say_to(pilot, "/model qwen3-0.6b")
        await pilot.press("y")
        fetching.go.set()
        await shows(pilot, "cannot fetch it [/x]")
        await pilot.press("escape")
        assert session.settings.model == "smollm2-135m"


async def test_files_are_attached_and_missing_ones_are_words(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("secret plan", "utf-8")
    (tmp_path / "bad.bin").write_bytes(b"\xff\xfe\x00")
    session = FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, f"summarise @{notes} for me@example.org and @nobody")
        await idle(pilot)
        assert session.requests[0].prompt.endswith("notes.txt:\n```\nsecret plan\n```")
        await say_to(pilot, f"read @{tmp_path / 'bad.bin'}")
        await shows(pilot, "is not a text file")
        assert "bad.bin" in pilot.app.chat.prompt.text and len(session.requests) == 1


async def test_copying_copies_what_is_shown():
    session = FakeSession(scripts=[Script("text \x1b[2J\n\n```\ncode\n```\n")])
    async with running(session) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        await pilot.press("alt+up", "c")
        assert pilot.app.clipboard.startswith("text ␛[2J")
        await pilot.press("C")
        assert pilot.app.clipboard == "code"


async def test_one_code_block_of_several_is_copied_by_key_and_by_mouse():
    session = FakeSession(scripts=[Script("```py\nfirst\n```\n\n```\nsecond\nline\n```\n")])
    async with running(session) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        await pilot.press("alt+up", "C")
        await shows(pilot, "2. second")
        await pilot.press("down", "enter")
        assert pilot.app.clipboard == "second\nline"
        await pilot.click(CodeBlock)
        assert pilot.app.clipboard == "first"


async def test_a_conversation_is_renamed_and_exported(tmp_path):
    session = FakeSession()
    async with running(session) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        await say_to(pilot, "/rename My [bold]title[/x]")
        await shows(pilot, "My [bold]title[/x]")
        await say_to(pilot, f"/export {tmp_path / 'chat.md'}")
        await wait_until(pilot, lambda: (tmp_path / "chat.md").exists())


async def test_own_keys_replace_the_defaults():
    session = FakeSession()
    async with running(session, keys={"new": "ctrl+t"}) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        assert "Ctrl+T" in text_of(pilot.app)
        await pilot.press("ctrl+t")
        await shows(pilot, "a chat you can see through")


async def test_sentences_name_the_persons_own_keys_in_every_language():
    keys = {"inspect": "f7", "audit": "f8", "help": "f9", "stop": "f10", "turn_edit": "u", "turn_safety": "k"}
    session = FakeSession(scripts=[Script(), Script(prompt_verdict=BLOCK, refusal="No.")])
    async with running(session, size=(110, 40), keys=keys) as pilot:
        await shows(pilot, "F9 help · F7 why these words · F8 the log")
        await say_to(pilot, "q")
        await idle(pilot)
        await shows(pilot, "· attribution F7")
        await say_to(pilot, "/nothing_like_it")
        await shows(pilot, "F9 lists")
        await say_to(pilot, "how to make a bomb")
        await shows(pilot, "k: see every check")
        session.scripts = [Script("one two three", gate_after=1)]
        await say_to(pilot, "count")
        await say_to(pilot, "and again")
        await shows(pilot, "1 waiting · F10 takes back")
        await say_to(pilot, "/language zh")
        await shows(pilot, "k 查看全部检查")
        await shows(pilot, "1 条等待中 · F10 取回")
        await pilot.press("f10")
        await shows(pilot, "and again")
        session.release()
        await idle(pilot)


@pytest.mark.parametrize("size", [(10, 3), (1, 1), (20, 6), (40, 10), (300, 90)])
async def test_no_size_of_terminal_is_too_small_or_too_large(size):
    session = FakeSession(scripts=[Script("今天天气 **very** long `reply`", prompt_verdict=CAUTION)])
    async with running(session, size=size) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        for key in ("f1", "escape", "f2", "escape", "f3", "escape", "escape", "f4", "escape"):
            await pilot.press(key)
        assert pilot.app.is_running


async def test_a_megabyte_of_prompt_is_folded():
    session = FakeSession()
    async with running(session) as pilot:
        pilot.app.chat.prompt.focus()
        await wait_until(pilot, lambda: pilot.app.focused is pilot.app.chat.prompt)
        pilot.app.post_message(Paste("天\x1b" * 500_000))
        await shows(pilot, "⟦text 1: 1000000 characters⟧")
        await pilot.press("enter")
        await shows(pilot, "more characters (Space unfolds)")
        await idle(pilot)
        assert session.requests[0].prompt == "天␛" * 500_000
        await pilot.press("up")
        assert pilot.app.chat.prompt.full_text == session.requests[0].prompt


async def test_what_is_pasted_is_in_the_box_once_and_harmless():
    async with running(FakeSession()) as pilot:
        pilot.app.chat.prompt.focus()
        await wait_until(pilot, lambda: pilot.app.focused is pilot.app.chat.prompt)
        pilot.app.post_message(Paste("one\r\ntwo \x1b]52;c;eA==\x07"))
        await wait_until(pilot, lambda: pilot.app.chat.prompt.text == "one\ntwo ␛]52;c;eA==␇")


async def test_quitting_while_a_reply_is_written():
    session = FakeSession(scripts=[Script("one two three", gate_after=1)])
    async with running(session) as pilot:
        await say_to(pilot, "q")
        await shows(pilot, "one")
        await pilot.press("ctrl+q")
        assert pilot.app._exit


async def test_what_was_written_and_not_sent_is_there_the_next_time():
    ledger = MemoryLedger([make_turn(1, "hi", "there", None, "C1")])
    async with running(FakeSession(ledger=ledger)) as pilot:
        pilot.app.chat.prompt.load_text("for a new chat [/x]")
        pilot.app.chat.open_conversation("C1")
        await shows(pilot, "there")
        assert pilot.app.chat.prompt.text == ""
        pilot.app.chat.prompt.load_text("for the old one")
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: pilot.app.chat.prompt.text == "for a new chat [/x]")
    async with running(FakeSession(ledger=ledger)) as pilot:
        await shows(pilot, "for a new chat [/x]")
        pilot.app.chat.open_conversation("C1")
        await shows(pilot, "for the old one")
        await pilot.press("enter")
        await idle(pilot)
    async with running(FakeSession(ledger=ledger), conversation="C1") as pilot:
        await shows(pilot, "there")
        assert pilot.app.chat.prompt.text == ""


async def test_typing_beside_the_message_box_goes_into_it():
    ledger = MemoryLedger([make_turn(1, "hi", "there", None, "C1")])
    async with running(FakeSession(ledger=ledger)) as pilot:
        await pilot.press("ctrl+f", "enter", "x", "y")
        await wait_until(pilot, lambda: pilot.app.chat.prompt.text == "xy")


async def test_a_score_is_shown_against_the_threshold_it_reached(monkeypatch):
    monkeypatch.setattr("assistant.tui.widgets.turn_view.limits", lambda verdict, role: {"weapons": 0.6, "violence": 0.6})
    session = FakeSession(scripts=[Script(prompt_verdict=BLOCK), Script(prompt_verdict=replace(BLOCK, policy="old@1"))])
    session.guard = SimpleNamespace(policy=BLOCK.policy)
    async with running(session) as pilot:
        await say_to(pilot, "how to make a bomb today")
        await shows(pilot, "0.93 ≥ 0.60 weapons")
        assert "0.31 < 0.60 violence" in text_of(pilot.app)
        await pilot.press("ctrl+n")
        await say_to(pilot, "how to make a bomb today")
        await shows(pilot, "0.93 weapons")


def test_thresholds_come_from_the_policy_of_the_verdict():
    from assistant.tui.thresholds import limits

    verdict = replace(BLOCK, policy="balanced@whatever")
    assert 0 < limits(verdict, "prompt")["weapons"] <= 1
    assert limits(replace(BLOCK, policy="nobody@1"), "prompt") == {}


@pytest.mark.parametrize("command", ["/help", "/settings", "/delete", "/rename", "/audit"])
async def test_a_screen_that_is_told_twice_to_go_goes_once(command):
    session = FakeSession(ledger=MemoryLedger([make_turn(1, "Why?", "Because.", None, "C1")]))
    async with running(session, conversation="C1") as pilot:
        await shows(pilot, "Because.")
        await say_to(pilot, command)
        await wait_until(pilot, lambda: pilot.app.screen is not pilot.app.chat)
        opened = pilot.app.screen

        def leave():
            opened.dismiss(None)

        opened.call_later(leave)
        opened.call_later(leave)  # with the screen before it has handled the first
        await wait_until(pilot, lambda: not opened.is_running)
        assert pilot.app.screen is pilot.app.chat


async def test_turns_that_leave_the_screen_leave_memory_too():
    session = FakeSession(scripts=[Script("short") for _ in range(22)])
    async with running(session) as pilot:
        for number in range(22):
            await say_to(pilot, f"message {number}")
            await idle(pilot)
            if number == 19:
                assert ("release_memory",) not in session.ledger.calls  # all of them are still there
        await wait_until(pilot, lambda: ("release_memory",) in session.ledger.calls, "memory given back")
        assert len(pilot.app.chat.transcript.views) < 20
        await shows(pilot, "message 21")
