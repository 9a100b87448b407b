"""The line mode: the same conversation without a screen, readable aloud, harmless on any terminal."""

import io
from types import SimpleNamespace

import pytest

from assistant import paths
from assistant.errors import ModelError
from assistant.settings import Settings
from assistant.tui import auditing, models
from assistant.tui.commands import COMMANDS
from assistant.tui.plain import PlainChat, run_plain
from assistant.tui.plain_deeds import PlainDeeds
from safety.verdict import Action, Finding, Verdict
from tests.assistant.tui.fakes import FakeSession, MemoryLedger, Script, attribution_of, make_turn
from tests.assistant.tui.test_sanitize import FORBIDDEN

BLOCK = Verdict(Action.BLOCK, 0.9, {"self_harm": 0.9}, (), "You seem to be in distress.", "balanced@1")


def talk(session, *lines, conversation=None):
    out = io.StringIO()
    assert run_plain(session, conversation=conversation, stdin=io.StringIO("".join(line + "\n" for line in lines)), stdout=out) == 0
    assert not FORBIDDEN.search(out.getvalue())
    return out.getvalue()


def test_a_conversation():
    session = FakeSession(scripts=[Script("The sky is **blue**.\n\nShort waves scatter \x1b[31mmore.")])
    said = talk(session, "Why is the sky blue?", "two \\", "lines")
    assert "safety of the message: ✓ pass 0.02" in said
    assert "assistant:\nThe sky is **blue**.\n\nShort waves scatter ␛[31mmore.\nsafety of the reply: ✓ pass 0.02\n✓ complete" in said
    assert session.requests[1].prompt == "two \nlines" and session.requests[1].parent == "T0001"


def test_blocked_withdrawn_redacted():
    withdrawn = Script("first part\n\nsecond", output_verdict=BLOCK, block_after=3)
    redacted = Verdict(Action.REDACT, 1.0, {"privacy": 1.0}, redacted="call <PHONE>")
    session = FakeSession(scripts=[Script(prompt_verdict=BLOCK), withdrawn, Script("ok", prompt_verdict=redacted)])
    said = talk(session, "one", "two", "call 13800138000")
    assert "✗ blocked self-harm 0.90" in said and "988" in said and "I can't help with that." in said
    assert "withdrawn: disregard what was said above" in said and "second" not in said
    assert "call <PHONE>" in said and "13800138000" not in said


def test_chinese():
    session = FakeSession(Settings(language="zh"), scripts=[Script("因为散射。")])
    said = talk(session, "为什么天空是蓝的？")
    assert "消息的安全检查：✓ 通过 0.02" in said and "助手：\n因为散射。" in said


def test_branches_and_history():
    session = FakeSession(scripts=[Script("first"), Script("second"), Script("third")])
    said = talk(session, "q", "/regenerate", "/previous", "/edit better", "/previous", "/previous", "/previous")
    assert [r.parent for r in session.requests] == [None, None, None] and session.requests[2].prompt == "better"
    assert "‹ 1/3 ›" in said and "There is no other answer on that side." in said


def test_search_open_audit_inspect_rename_export(tmp_path):
    turn = make_turn(1, "天空 [/x]\x1b[2J", "散射", None, "C1")
    ledger = MemoryLedger([turn, make_turn(2, "refund", "sure", None, "C2")])
    ledger.kept["T0001"] = [attribution_of(turn)]
    session = FakeSession(ledger=ledger)
    said = talk(
        session,
        "/list",
        "/search 天空",
        "/open 1",
        "/inspect",
        "/audit",
        "/audit T0002",
        "/rename new [b]",
        f"/export {tmp_path / 'x.md'}",
        "/open 9",
    )
    assert "1. message: 天空 [/x]␛[2J" in said and "you: 天空 [/x]␛[2J" in said and "reply ← ablation" in said
    assert "prompt filter · ✓ pass" in said and ledger.titles["C1"] == "new [b]" and (tmp_path / "x.md").exists()
    assert "Give a number of the last list" in said


def test_the_audit_on_one_line(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(auditing, "check", lambda ledger: auditing.Check(True, 42, ""))
    monkeypatch.setattr(auditing, "review", lambda ledger, turn, label, note: done.append((turn, label, note)))
    monkeypatch.setattr(auditing, "redact", lambda ledger, turns, conversation, reason: done.append((turns, reason)) or 1)
    turns = [make_turn(n, f"question {n}", "answer", None, f"C{n}") for n in range(1, 25)]
    turns.append(make_turn(25, "bad \x1b[2J", "no", None, "C25", prompt_verdict=BLOCK, output_verdict=None, finish="blocked_prompt"))
    session = FakeSession(ledger=MemoryLedger(turns))
    path = tmp_path / "out.jsonl"
    said = talk(
        session, "/audit", "/audit more", "/audit verdict:block", "/audit show 1",
        "/audit review 1 unsafe  a [/x] note", "/audit review 1 wrong", "/audit review", "/audit review 1",
        "/audit redact 1", "no", "/audit redact T0003 asked to", "yes", f"/audit export {path}", "/audit verify", "/audit verdict:x",
        "/audit show 99", "/audit", "/open 2",
    )  # fmt: skip
    assert "20. T0006" in said and "There are more: /audit more" in said and "25. T0001" in said
    assert "1. T0025" in said and "bad ␛[2J" in said and "prompt filter · ✗ blocked self-harm 0.90" in said
    assert done == [("T0025", "unsafe", "a [/x] note"), (["T0003"], "asked to")] and "The review is in the log." in said
    assert len(path.read_text().splitlines()) == 1 and session.ledger.events[0][0] == "export"
    assert "✓ 42 records sound" in said and "verdict:x cannot be" in said and "there is no turn '99'" in said
    assert "you: question 24" in said  # /open goes to a turn of the list


def test_settings_on_one_line(home_config):
    session = FakeSession()
    said = talk(
        session, "/settings", "/settings temperature", "/settings temperature 0.7", "/settings temperature hot", "/settings nope 1",
        "/settings policy strict", "/settings language zh", "/settings save",
    )  # fmt: skip
    assert "top_k: 40" in said and "temperature: 0.2" in said and "Randomness of the reply" in said and "must be a float" in said
    assert "There is no parameter nope" in said and "database" not in said.split("There is no parameter")[0]
    assert session.ready and session.settings.policy == "strict"
    assert home_config.read_text() == 'policy = "strict"\nlanguage = "zh"\ntemperature = 0.7\n'


@pytest.fixture
def home_config():
    return paths.config_file()


def test_a_model_is_fetched_only_when_the_person_agrees(monkeypatch):
    fetched = []
    monkeypatch.setattr(models, "fetch", lambda name, progress, stop: fetched.append(name))
    session = FakeSession()
    said = talk(session, "/model qwen3-0.6b", "no", "/set seed 7", "/set stop END | ⏹", "hello")
    assert "Apache-2.0" in said and fetched == [] and session.settings.model == "smollm2-135m"
    assert (session.requests[0].sampling.seed, session.requests[0].sampling.stop) == (7, ("END", "⏹"))
    talk(session, "/model qwen3-0.6b", "yes")
    assert fetched == ["qwen3-0.6b"] and session.settings.model == "qwen3-0.6b"


def test_a_model_that_does_not_load_leaves_the_one_before():
    session = FakeSession(load_error=ModelError("there is no model called 'nosuch': choose one"))
    said = talk(session, "/model nosuch", "hello")
    assert "there is no model called" in said and session.settings.model == "smollm2-135m" and session.ready
    assert len(session.requests) == 1


def test_replies_that_were_cut_off_are_told():
    out = io.StringIO()
    run_plain(FakeSession(), recovered=2, stdin=io.StringIO(""), stdout=out)
    assert "2 replies were cut off" in out.getvalue()


def test_a_decision_is_said_with_its_scores_and_words():
    verdict = Verdict(Action.BLOCK, 0.93, {"weapons": 0.93}, (Finding("weapons", "r", 14, 18, 0.93),), "Why.", "balanced@1")
    session = FakeSession(scripts=[Script(prompt_verdict=verdict)])
    session.guard = SimpleNamespace(policy="balanced@1")
    said = talk(session, "how to make a bomb today")
    assert "found: “bomb”" in said and "score against threshold: weapons 0.93 ≥ 0." in said


def test_one_turn_is_deleted(monkeypatch):
    erased = []
    monkeypatch.setattr(auditing, "redact", lambda ledger, turns, conversation, reason: erased.append((turns, conversation)) or 1)
    talk(FakeSession(), "one", "two", "/delete turn", "yes", "/rename")
    assert erased == [(["T0002"], None)]


def test_the_inspector_on_one_line():
    turn = make_turn(1, "天空", "散射 blue", None, "C1")
    session = FakeSession(ledger=MemoryLedger([turn]))
    session.explain_gate.set()
    said = talk(
        session, "/list", "/open 1", "/inspect method contextcite level word token 1 rather something else", "/inspect without 3 token 0",
        "/inspect token 99", "/inspect without 99 token 0", "/inspect without 1", "/inspect colour", "/inspect token -1", "/inspect rather",
    )  # fmt: skip
    assert session.explained[0] == ("T0001", "contextcite", 1, {"level": "word", "contrast": "something else"})
    assert "pieces: 0:" in said and "instead of “" in said
    assert session.ablated[0][2] == 0 and "without “" in said and "then it would be: else 0.497" in said
    assert (
        "The reply has the tokens 0 to" in said and "The conversation has the pieces 0 to" in said and said.count("Say /inspect, or:") == 4
    )


def test_settings_of_the_chat():
    session = FakeSession()
    said = talk(
        session,
        "/set",
        "/set top_k 3",
        "/set top_k x",
        "/set nope 1",
        "/system Be brief.",
        "/persona",
        "/persona medical",
        "/model m2",
        "q",
    )
    request = session.requests[0]
    assert (request.sampling.top_k, session.settings.policy, session.settings.model) == (3, "medical", "m2")
    assert "medical information" in request.system
    assert "top_k must be a int" in said and "There is no parameter nope" in said and "writing: Writing." in said


def test_a_persona_holds_for_its_conversations_and_no_longer():
    session = FakeSession()
    said = talk(session, "/persona writing", "/persona medical", "/set top_k 7", "headache", "/new", "hello", "/list", "/open 2", "again")
    policies = [line for line in said.splitlines() if "policy" in line]
    assert [line.split()[-1] for line in policies] == ["writing", "medical", "balanced", "medical"]
    assert [r.sampling.top_k for r in session.requests] == [7, 40, 7] and session.requests[0].sampling.max_tokens == 512
    assert "medical information" in session.requests[2].system


def test_errors_are_said_and_survived():
    session = FakeSession(loaded=False, load_error=ModelError("no model \x1b[2J"))
    session.load_gate.set()
    said = talk(session, "hello", "/nope", "/theme", "/new")
    assert said.count("error: no model ␛[2J") == 2 and "no command /nope" in said and "only on the full screen" in said
    session = FakeSession(scripts=[Script("words words", error=RuntimeError("boom"), error_after=1)])
    assert "error: boom" in talk(session, "q", "again")


def test_deleting_asks(monkeypatch):
    gone = []
    monkeypatch.setattr(auditing, "redact", lambda ledger, turns, conversation, reason: gone.append(conversation))
    talk(FakeSession(), "q", "/delete", "no")
    assert gone == []
    talk(FakeSession(), "q", "/delete", "yes")
    assert gone == ["C1"]


def test_a_conversation_is_continued():
    session = FakeSession(ledger=MemoryLedger([make_turn(1, "hi", "there", None, "C1")]))
    assert "there" in talk(session, "on", conversation="C1")
    assert session.requests[0].parent == "T0001"


def test_ctrl_c_stops_the_reply_and_keeps_it(monkeypatch):
    session = FakeSession(scripts=[Script("one two three", gate_after=2)])
    chat = PlainChat(session, io.StringIO(), io.StringIO())
    pauses = iter([None] * 20)

    def sleep(seconds):
        if next(pauses, "end") == "end" and not session.ledger.all:
            raise KeyboardInterrupt

    monkeypatch.setattr("assistant.tui.plain.time.sleep", sleep)
    chat._take("count")
    assert session.ledger.all["T0001"].finish == "stopped" and session.ledger.all["T0001"].reply


@pytest.mark.parametrize("command", [c.id for c in COMMANDS if c.slash])
def test_every_slash_command_is_there_or_says_why_not(command):
    chat = PlainChat(FakeSession(), io.StringIO(), io.StringIO())
    assert command in PlainDeeds(chat).by_name() or command in ("theme", "editor")
