"""Texts that nobody vouches for: whatever they hold, they are shown as text. In every widget, through every screen."""

import random

import pytest
from rich.text import Text
from textual.app import App
from textual.content import Content
from textual.widgets import Button, DataTable, OptionList, Static, Tree
from textual.widgets.option_list import Option

from assistant.settings import Settings
from assistant.tui.rendering import safe
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import ChoiceDialog, ConfirmDialog, InputDialog, MessageDialog
from assistant.tui.widgets.card import VerdictCard
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.markdown import SafeMarkdown
from assistant.tui.widgets.prompt import PromptInput
from assistant.tui.widgets.reply import Reply
from assistant.tui.widgets.safe_input import SafeInput
from assistant.tui.widgets.turn_view import TurnView
from safety.verdict import Action, Finding, Verdict
from tests.assistant.tui.fakes import FakeSession, MemoryLedger, Script, make_turn
from tests.assistant.tui.screens import idle, running, say_to, settled, shows, text_of, wait_until
from tests.assistant.tui.test_sanitize import FORBIDDEN

MARKUP = "[INST] a[0] [/x] [bold red]z[/] [@click=app.quit]q[/] \x1b[31mesc\x1b]52;c;eA==\x07 \u202eRTL\ud800"
VISIBLE = "[INST] a[0] [/x] [bold red]z[/]"


def table():
    made = DataTable()
    made.add_column("c")
    made.add_row(Text(one_line(MARKUP)))
    return made


def tree():
    made = Tree(Text(one_line(MARKUP)))
    made.root.add_leaf(Text(one_line(MARKUP)))
    return made


def card():
    return VerdictCard(Verdict(Action.BLOCK, 0.9, {MARKUP: 0.9}, (Finding(MARKUP, MARKUP, 0, 3, 0.9),), MARKUP, MARKUP), "prompt", MARKUP)


def titled():
    made = Static(safe(MARKUP), markup=False)
    made.styles.border = ("round", "red")
    made.border_title = Content(one_line(MARKUP))
    return made


WIDGETS = {
    "static": lambda: Static(safe(MARKUP), markup=False),
    "title": titled,
    "markdown": lambda: SafeMarkdown(MARKUP),
    "reply": lambda: Reply(MARKUP),
    "turn": lambda: TurnView(make_turn(1, MARKUP, MARKUP, notices=(MARKUP,))),
    "card": card,
    "button": lambda: Button(Content(one_line(MARKUP))),
    "options": lambda: OptionList(Option(safe(MARKUP)), markup=False),
    "table": table,
    "tree": tree,
    "input": lambda: SafeInput(MARKUP),
    "keys": KeyBar,
}


@pytest.mark.parametrize("name", WIDGETS)
async def test_markup_is_text_in_every_widget(name):
    class Bare(App):
        def compose(self):
            yield WIDGETS[name]()

    app = Bare()
    async with app.run_test(size=(150, 20)) as pilot:
        if name == "keys":
            app.query_one(KeyBar).show([(one_line(MARKUP), "x")])
        await settled(pilot)
        shown = text_of(app)
        assert VISIBLE in shown, shown
        assert not FORBIDDEN.search(shown.replace("\n", ""))


async def test_the_message_box_holds_what_it_shows():
    class Bare(App):
        def compose(self):
            yield PromptInput()

    app = Bare()
    async with app.run_test(size=(150, 10)) as pilot:
        box = app.query_one(PromptInput)
        box.load_text(MARKUP)
        box.insert(MARKUP)
        await settled(pilot)
        assert not FORBIDDEN.search(box.text) and VISIBLE in text_of(app)


@pytest.mark.parametrize(
    "dialog",
    [
        lambda: MessageDialog(MARKUP, MARKUP, MARKUP, error=True),
        lambda: ConfirmDialog(MARKUP, MARKUP, MARKUP),
        lambda: InputDialog(MARKUP, MARKUP, MARKUP),
        lambda: ChoiceDialog(MARKUP, [(MARKUP, MARKUP, MARKUP)], MARKUP),
    ],
)
async def test_markup_is_text_in_every_dialog(dialog):
    async with running(FakeSession()) as pilot:
        await pilot.app.push_screen(dialog())
        await shows(pilot, "[INST] a[0] [/x]")
        assert not FORBIDDEN.search(text_of(pilot.app).replace("\n", ""))


async def test_hostile_texts_go_through_every_screen():
    verdict = Verdict(Action.CAUTION, 0.5, {MARKUP: 0.5}, (Finding(MARKUP, MARKUP, 0, 5, 0.5),), MARKUP, MARKUP)
    ledger = MemoryLedger([make_turn(1, MARKUP, MARKUP, None, "C1", prompt_verdict=verdict, system=MARKUP, notices=(MARKUP,))])
    ledger.titles["C1"] = MARKUP
    session = FakeSession(
        Settings(language="en", model="[/x]\x1b[2J"), ledger=ledger, scripts=[Script(MARKUP, verdict, verdict, (MARKUP,))]
    )
    async with running(session, conversation="C1", size=(120, 40)) as pilot:

        async def clean():
            await settled(pilot)
            assert not FORBIDDEN.search(text_of(pilot.app).replace("\n", ""))

        await shows(pilot, "[INST]")
        await clean()
        await say_to(pilot, MARKUP)
        await idle(pilot)
        await clean()
        for key in ("f1", "escape", "f2", "escape", "ctrl+p", "escape", "f3"):
            await pilot.press(key)
            await clean()
        await wait_until(pilot, lambda: "³" in text_of(pilot.app))
        await pilot.press("right", "l", "l")
        await clean()
        await pilot.press("escape", "f4")
        await shows(pilot, "Audit log")
        for tab in ("tab-text", "tab-json", "tab-trace"):
            pilot.app.screen.query_one("TabbedContent").active = tab
            await clean()
        await pilot.press("escape", "ctrl+f", *"inst")
        await shows(pilot, "[INST]")
        await clean()
        assert not hasattr(pilot.app, "_clipboard_written")


async def test_streamed_markdown_is_the_same_as_rendered_at_once():
    random_ = random.Random(5)
    pieces = [
        "# head\n", "para ", "**b** ", "\n", "\n\n", "- item\n", "1. one\n", "```py\nx = 1\n", "```\n", "> quote\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "天空，", "`code` ", "<div>html</div>\n", "---\n", "\u2028", "\x85", "[l](javascript:x) ", "![i](http://x/y.png) ",
    ]  # fmt: skip

    class Two(App):
        def compose(self):
            yield Reply()
            yield Reply("")

    for _ in range(25):
        text = "".join(random_.choice(pieces) for _ in range(random_.randint(1, 25)))
        app = Two()
        async with app.run_test(size=(60, 200)) as pilot:
            streamed, whole = app.query(Reply)
            streamed.display = True
            at = 0
            while at < len(text):
                step = random_.randint(1, 12)
                await streamed.feed(text[at : at + step])
                at += step
            await streamed.finish(text)
            await whole.finish(text)
            await settled(pilot)
            first, second = ([(type(w).__name__, getattr(w, "source", None)) for w in r.query("MarkdownBlock")] for r in (streamed, whole))
            assert first == second, text


async def test_html_is_shown_and_links_are_not_followed():
    class Bare(App):
        def compose(self):
            yield SafeMarkdown("<think>plan</think> <b>x</b>\n\n[link](https://evil.example/?q=secret) line\nnext")

    app = Bare()
    opened = []
    app.open_url = lambda url, **_: opened.append(url)
    async with app.run_test(size=(60, 20)) as pilot:
        await settled(pilot)
        screen = text_of(app)
        assert "<think>plan</think> <b>x</b>" in screen
        assert "line\n  next" in screen
        await pilot.click(SafeMarkdown, offset=(3, 2))
        assert opened == []
