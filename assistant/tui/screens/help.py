"""All keys and commands on one page, made from the registry, with the person's own keys."""

from __future__ import annotations

import os
from typing import ClassVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from assistant.tui import commands
from assistant.tui.screen_keys import Where, of_screen
from assistant.tui.screens.once import LeftOnce
from assistant.tui.terminal import shift_enter_works
from assistant.tui.text import say


class HelpScreen(LeftOnce, ModalScreen[None]):
    """Something to read; Esc closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,f1,q", "dismiss(None)", "")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog page") as box:
            box.border_title = Content(say("help.title"))
            box.border_subtitle = Content(say("help.close"))
            with VerticalScroll() as scroll:
                scroll.can_focus = True
                # the bar keeps its room: on a screen of a few cells it would otherwise appear and vanish for ever
                scroll.styles.scrollbar_gutter = "stable"
                yield Static(help_text(getattr(self.app, "own_keys", {})), markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


def help_text(own_keys: dict[str, str]) -> Content:
    """The page."""
    keys = commands.keys_in_force(own_keys)
    newline = "Shift+Enter, Ctrl+J" if shift_enter_works(os.environ) else "Ctrl+J"
    fixed = [("Enter", say("help.send")), (newline, say("help.newline")), ("↑ ↓", say("help.earlier"))]
    chat = [c for c in commands.COMMANDS if c.scope == "chat" and c.id in keys]
    turn = [c for c in commands.COMMANDS if c.scope == "turn" and c.id in keys]
    slash = [c for c in commands.COMMANDS if c.slash]
    parts = [
        Content(say("help.strip")),
        Content(""),
        *_table(say("help.keys"), [*fixed, *((commands.key_name(keys[c.id]), c.help) for c in chat)]),
        *_table(say("help.turn_keys"), [(commands.key_name(keys[c.id]), c.help) for c in turn]),
        *_table(say("audit.title"), _of_screen("audit", own_keys)),
        *_table(say("inspector.title"), _of_screen("inspector", own_keys)),
        *_table(say("help.slash"), [("/" + c.id, c.help) for c in slash]),
        Content.styled(say("help.line"), "$foreground 62%"),
        Content.styled(say("help.files"), "$foreground 62%"),
    ]
    return Content("\n").join(parts)


def _of_screen(where: Where, own_keys: dict[str, str]) -> list[tuple[str, str]]:
    return [(" ".join(commands.key_name(key) for key in keys.split(",")[:2]), key.words) for key, keys in of_screen(where, own_keys)]


def _table(title: str, rows: list[tuple[str, str]]) -> list[Content]:
    width = max(cell_len(key) for key, _ in rows) + 2
    lines = [Content.styled(title, "bold $text-primary")]
    for key, what in rows:
        lines.append(Content.assemble("  ", Content.styled(key + " " * (width - cell_len(key)), "$text-accent"), what))
    return [*lines, Content("")]
