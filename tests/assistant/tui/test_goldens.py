"""What the screens look like, as text: every scene in three sizes and both languages. The files under goldens/ are the contract.

`PELLUCID_GOLDENS=write pytest tests/assistant/tui/test_goldens.py` writes them anew: read the diff before you commit it.
"""

from __future__ import annotations

import pytest

from assistant.errors import ModelError
from assistant.settings import Settings
from assistant.tui import auditing, models
from safety.verdict import Action, Finding, Verdict
from tests.assistant.tui.fakes import FakeSession, MemoryLedger, Script, make_turn
from tests.assistant.tui.screens import golden, idle, running, say_to, settled, shows, wait_until

SIZES = ((80, 24), (100, 30), (160, 48))
POLICY = "balanced@1a2b3c4d"

TEXTS = {
    "en": {
        "ask": "Why is the sky blue? Give me the formula.",
        "reply": "The sky is **blue** because short waves scatter more:\n\n```python\nintensity = 1 / wavelength ** 4\n```\n\n"
        "1. blue: 450 nm\n2. red: 700 nm\n\n> Rayleigh, 1871\n\n| colour | nm |\n|---|---|\n| blue | 450 |\n",
        "bad": "how to make a bomb today",
        "at": (14, 18),
        "reason": "This asks how to build a weapon.",
        "refusal": "I can't help with that.",
        "medical": "This is about health; the answer does not replace a doctor.",
        "long": "All the words of a long story. " * 150,
    },
    "zh": {
        "ask": "为什么天空是蓝色的？请给出公式，不要超过三句话。",
        "reply": "天空是**蓝色**的，因为短波长的光散射得更多（Rayleigh scattering）：\n\n```python\n强度 = 1 / 波长 ** 4\n```\n\n"
        "1. 蓝光：450 nm\n2. 红光：700 nm\n\n> 瑞利，1871 年\n\n| 颜色 | nm |\n|---|---|\n| 蓝 | 450 |\n",
        "bad": "今天怎么做炸弹？",
        "at": (5, 7),
        "reason": "这是在询问如何制造武器。",
        "refusal": "抱歉，我不能帮助做这件事。",
        "medical": "这涉及健康问题，回答不能代替医生。",
        "long": "很久很久以前的一个故事，" * 300,
    },
}


class Scene:
    """One scene: how its session is made and how it is played until the screen is to be looked at."""

    def __init__(self, language):
        self.language = language
        self.words = TEXTS[language]
        self.conversation = None
        self.turns = [
            make_turn(1, self.words["ask"], self.words["reply"], None, "C1", system="Be brief." if language == "en" else "请简短。"),
            make_turn(2, "And at sunset?", "The light travels a longer way.", "T0001", "C1"),
            make_turn(3, "And at sunset?", "More air to cross, so the blue is gone.", "T0001", "C1"),
            make_turn(4, "退款流程是什么？", "请提供订单号。", None, "C4"),
            make_turn(5, self.words["bad"], self.words["refusal"], None, "C5", finish="blocked_prompt", tokens=(), output_verdict=None,
                      prompt_verdict=self.block()),
        ]  # fmt: skip
        self.scripts = []
        self.changes = {}

    def block(self):
        finding = Finding("weapons", "explosive", *self.words["at"], 0.93)
        return Verdict(Action.BLOCK, 0.93, {"weapons": 0.93, "violence": 0.31}, (finding,), self.words["reason"], POLICY, 1.4)

    def caution(self):
        return Verdict(Action.CAUTION, 0.62, {"advice": 0.62}, (), self.words["medical"], POLICY, 1.4)

    def session(self):
        settings = Settings(language=self.language, theme="pellucid-dark")
        return FakeSession(settings, ledger=MemoryLedger(self.turns), scripts=self.scripts, **self.changes)


SCENES = {}


def scene(function):
    SCENES[function.__name__] = function
    return function


async def send(pilot, text):
    await say_to(pilot, text)
    await idle(pilot)


# -- chat --------------------------------------------------------------------------------------------------------------


@scene
async def welcome(pilot, at):
    pass


@scene
async def first_start(pilot, at):
    pass


@scene
async def loading(pilot, at):
    await shows(pilot, "42%")


@scene
async def load_failed(pilot, at):
    pilot.app.session.load_gate.set()
    await shows(pilot, "damaged")


@scene
async def answer(pilot, at):
    at.scripts.append(Script(at.words["reply"]))
    await send(pilot, at.words["ask"])


@scene
async def streaming(pilot, at):
    at.scripts.append(Script(at.words["reply"], gate_after=12))
    await say_to(pilot, at.words["ask"])
    await shows(pilot, "12 tok" if at.language == "en" else "12 词元")


@scene
async def queued(pilot, at):
    await streaming(pilot, at)
    await say_to(pilot, "next")


@scene
async def stopped(pilot, at):
    await streaming(pilot, at)
    await pilot.press("escape")
    await idle(pilot)


@scene
async def blocked(pilot, at):
    at.scripts.append(Script(prompt_verdict=at.block(), refusal=at.words["refusal"]))
    await send(pilot, at.words["bad"])


@scene
async def withdrawn(pilot, at):
    verdict = Verdict(Action.BLOCK, 0.88, {"weapons": 0.88}, (), at.words["reason"], POLICY)
    at.scripts.append(Script("mix the two", output_verdict=verdict, block_after=2, refusal=at.words["refusal"]))
    await send(pilot, at.words["ask"])


@scene
async def shown_anyway(pilot, at):
    verdict = Verdict(Action.BLOCK, 0.95, {"harassment": 0.95}, (), at.words["reason"], POLICY)
    at.scripts.append(Script("you are a fool", output_verdict=verdict, block_after=2, refusal=at.words["refusal"]))
    await send(pilot, at.words["ask"])
    await pilot.press("alt+up", "a")
    await shows(pilot, "you are a")


@scene
async def cautioned(pilot, at):
    at.scripts.append(
        Script(at.words["reply"], prompt_verdict=at.caution(), output_verdict=at.caution(), notices=("2 turns were dropped.",))
    )
    await send(pilot, at.words["ask"])


@scene
async def redacted(pilot, at):
    finding = Finding("privacy", "phone.cn", 3, 14, 1.0)
    verdict = Verdict(Action.REDACT, 1.0, {"privacy": 1.0}, (finding,), "", POLICY, redacted="我的 ⟨phone⟩")
    at.scripts.append(Script("好", prompt_verdict=verdict))
    await send(pilot, "我的 13800138000")


@scene
async def self_harm(pilot, at):
    verdict = Verdict(Action.BLOCK, 0.97, {"self_harm": 0.97}, (), "", POLICY)
    at.scripts.append(Script(prompt_verdict=verdict, refusal="…"))
    await send(pilot, "…")


@scene
async def failed(pilot, at):
    at.scripts.append(Script("half an ans", error=ModelError("the machine is out of memory: choose a smaller model"), error_after=2))
    await say_to(pilot, at.words["ask"])
    await shows(pilot, "out of memory" if at.language == "en" else "out of")
    await idle(pilot)


@scene
async def opened(pilot, at):
    pilot.app.chat.open_conversation("C1")
    await shows(pilot, "‹ 2/2 ›")


@scene
async def sibling(pilot, at):
    await opened(pilot, at)
    await pilot.press("alt+up", "left_square_bracket")
    await shows(pilot, "‹ 1/2 ›")


@scene
async def message_cursor(pilot, at):
    await opened(pilot, at)
    await pilot.press("alt+up", "alt+up")


@scene
async def editing(pilot, at):
    await opened(pilot, at)
    await pilot.press("alt+up", "e")
    await wait_until(pilot, lambda: bool(pilot.app.chat.prompt.text))


@scene
async def long_prompt(pilot, at):
    await send(pilot, at.words["long"])


@scene
async def several_lines(pilot, at):
    pilot.app.chat.prompt.load_text("one\n" + at.words["ask"] * 3 + "\nthree")
    await settled(pilot)


@scene
async def long_conversation(pilot, at):
    pilot.app.chat.open_conversation("L")
    await shows(pilot, "answer 30")
    pilot.app.chat.transcript.scroll_home(animate=False)


@scene
async def searched(pilot, at):
    await pilot.press("ctrl+f", *"退款")
    await wait_until(pilot, lambda: len(pilot.app.chat.sidebar._targets) == 1)


@scene
async def nothing_found(pilot, at):
    await pilot.press("ctrl+f", *"xyz")
    await wait_until(pilot, lambda: not pilot.app.chat.sidebar._targets)


@scene
async def interrupted(pilot, at):
    pilot.app.chat.open_conversation("I")
    await shows(pilot, "half a sentence")


@scene
async def erased(pilot, at):
    pilot.app.chat.open_conversation("E")
    await wait_until(pilot, lambda: pilot.app.chat.branch.conversation == "E")


@scene
async def models_(pilot, at):
    await say_to(pilot, "/model")
    await shows(pilot, "qwen3-4b")


@scene
async def model_asked(pilot, at):
    await say_to(pilot, "/model qwen3-0.6b")
    await shows(pilot, "Apache-2.0")


@scene
async def model_fetched(pilot, at):
    await model_asked(pilot, at)
    await pilot.press("y")
    await shows(pilot, "42%")


# -- over the chat -----------------------------------------------------------------------------------------------------


@scene
async def help_page(pilot, at):
    await pilot.press("f1")


@scene
async def settings(pilot, at):
    await pilot.press("f2", "down", "down")


@scene
async def setting_changed(pilot, at):
    await pilot.press("f2", "down", "down", "enter")
    await settled(pilot)
    pilot.app.screen.query_one("Input").value = "float32"
    await pilot.press("enter")


@scene
async def palette(pilot, at):
    await pilot.press("ctrl+p")
    await shows(pilot, "Again" if at.language == "en" else "重答")
    await settled(pilot)


@scene
async def personas(pilot, at):
    await say_to(pilot, "/persona")


@scene
async def rename(pilot, at):
    await opened(pilot, at)
    await say_to(pilot, "/rename")


@scene
async def delete(pilot, at):
    await opened(pilot, at)
    await say_to(pilot, "/delete")


# -- inspector ---------------------------------------------------------------------------------------------------------


@scene
async def inspector(pilot, at):
    await opened(pilot, at)
    await pilot.press("alt+up", "alt+up", "i")
    await shows(pilot, "³")


@scene
async def inspector_word(pilot, at):
    await inspector(pilot, at)
    await pilot.press("right", "right", "right", "right")


@scene
async def inspector_sentences(pilot, at):
    await inspector(pilot, at)
    await pilot.press("l", "l")


@scene
async def inspector_computing(pilot, at):
    pilot.app.session.explain_gate.clear()
    await opened(pilot, at)
    await pilot.press("f3")
    await shows(pilot, "50%")


@scene
async def inspector_other_method(pilot, at):
    await inspector(pilot, at)
    await pilot.press("m")


@scene
async def inspector_rather(pilot, at):
    await inspector(pilot, at)
    await pilot.press("right", "y", "enter")
    await shows(pilot, "³")


@scene
async def inspector_left_out(pilot, at):
    await inspector(pilot, at)
    await pilot.press("right", "full_stop", "full_stop", "n")
    await shows(pilot, "-1.50")


# -- audit -------------------------------------------------------------------------------------------------------------


@scene
async def audit(pilot, at):
    await pilot.press("f4")
    await shows(pilot, "explosive")


@scene
async def audit_turn(pilot, at):
    await audit(pilot, at)
    await pilot.press("down", "down", "down", "down")
    await shows(pilot, "T0001")


@scene
async def audit_filtered(pilot, at):
    await audit(pilot, at)
    await pilot.press("f", "f")
    await wait_until(pilot, lambda: len(pilot.app.screen._rows) == 1)


@scene
async def audit_nothing(pilot, at):
    await audit(pilot, at)
    await pilot.press("F", "F")
    await wait_until(pilot, lambda: not pilot.app.screen._rows)


@scene
async def audit_text(pilot, at):
    await audit(pilot, at)
    pilot.app.screen.query_one("TabbedContent").active = "tab-text"


@scene
async def audit_json(pilot, at):
    await audit(pilot, at)
    pilot.app.screen.query_one("TabbedContent").active = "tab-json"


@scene
async def audit_sound(pilot, at):
    await audit(pilot, at)
    await pilot.press("v")
    await shows(pilot, "42")


@scene
async def audit_damaged(pilot, at):
    await audit(pilot, at)
    await pilot.press("v")
    await shows(pilot, "changed")


@scene
async def audit_redact(pilot, at):
    await audit(pilot, at)
    await pilot.press("r")


@scene
async def audit_review(pilot, at):
    await audit(pilot, at)
    await pilot.press("w")


def prepare(name, at, monkeypatch):
    """What a scene needs to be there before it starts."""
    if name in ("loading", "load_failed"):
        at.changes = {"loaded": False}
    if name == "load_failed":
        at.changes["load_error"] = ModelError("the model file is damaged: run `pellucid models pull smollm2-135m` again")
    if name == "first_start":
        at.turns = []
    if name == "long_conversation":
        at.turns = [make_turn(n, f"question {n}", f"answer {n}", f"T{n - 1:04d}" if n > 1 else None, "L") for n in range(1, 31)]
    if name == "interrupted":
        at.turns.append(make_turn(6, "tell me a story", "half a sentence", None, "I", finish="interrupted"))
    if name == "erased":
        at.turns.append(make_turn(6, "", "", None, "E", tokens=(), erased=("prompt", "reply")))
    if name == "model_fetched":
        monkeypatch.setattr(models, "fetch", lambda name, progress, stop: (progress(f"fetching {name}", 0.42), stop.wait(20)))
    check = auditing.Check(True, 42, "") if name == "audit_sound" else auditing.Check(False, 42, "record 7 was changed")
    monkeypatch.setattr(auditing, "check", lambda ledger: check)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", SCENES)
async def test_scene(name, language, monkeypatch):
    at = Scene(language)
    prepare(name, at, monkeypatch)
    wrong = []
    async with running(at.session(), size=SIZES[1]) as pilot:
        await settled(pilot)
        await SCENES[name](pilot, at)
        await settled(pilot)
        for width, height in (SIZES[1], SIZES[0], SIZES[2]):  # the first is the one it has
            if (width, height) != SIZES[1]:
                await pilot.resize_terminal(width, height)
            try:
                golden(pilot.app, f"{name}.{language}.{width}x{height}")
            except AssertionError as error:
                wrong.append(str(error))
        for gate in (pilot.app.session.gate, pilot.app.session.load_gate, pilot.app.session.explain_gate):
            gate.set()
        if hasattr(pilot.app.screen, "action_stop"):
            pilot.app.screen.action_stop()
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("name", ["blocked", "cautioned", "inspector", "audit", "answer"])
async def test_without_colour_the_screen_says_the_same(name, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    at = Scene("en")
    prepare(name, at, monkeypatch)
    async with running(at.session(), size=SIZES[1]) as pilot:
        await settled(pilot)
        await SCENES[name](pilot, at)
        await settled(pilot)
        golden(pilot.app, f"{name}.en.100x30")
