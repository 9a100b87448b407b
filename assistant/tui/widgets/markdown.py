"""Markdown of untrusted origin:
nothing is fetched or opened, raw HTML is shown as text, single line breaks are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.events import Click
from textual.message import Message
from textual.widgets import Markdown
from textual.widgets._markdown import MarkdownBlock, MarkdownFence

from assistant.tui.sanitize import sanitize
from assistant.tui.widgets.flat_list import FlatBulletList, FlatOrderedList
from assistant.tui.widgets.settled import Settled, Uniform


def parser() -> MarkdownIt:
    """A parser for chat replies:
    tables, fences, strike-through; no HTML (it would vanish), every line break a break.
    """
    made = MarkdownIt("gfm-like", {"html": False})
    made.core.ruler.push("keep_line_breaks", _keep_line_breaks)
    return made


def _keep_line_breaks(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


class CodeBlock(MarkdownFence):
    """A fence that is copied by a click on it."""

    @dataclass
    class Copied(Message):
        """This code is wanted on the clipboard."""

        code: str

    def on_click(self, event: Click) -> None:
        if not self.screen.get_selected_text():  # else the mouse has just selected a part of it
            event.stop()
            self.post_message(self.Copied(self.code))


def _settled(block: type[MarkdownBlock]) -> type[MarkdownBlock]:
    """A kind of block under its own name (style sheets go by it), which a layout leaves in peace."""
    return type(block.__name__, (Settled, block), {"__module__": __name__})


class SafeMarkdown(Uniform, Markdown):
    """Textual's Markdown behind the sanitiser. A clicked link is reported, never followed."""

    BLOCKS: dict[str, type[MarkdownBlock]] = {  # noqa: RUF012 (declared so by Markdown)
        **{name: _settled(block) for name, block in Markdown.BLOCKS.items()},
        "bullet_list_open": FlatBulletList, "ordered_list_open": FlatOrderedList,
        "fence": CodeBlock, "code_block": CodeBlock,
    }  # fmt: skip

    def __init__(self, text: str = "", classes: str | None = None) -> None:
        super().__init__(sanitize(text), classes=classes, parser_factory=parser, open_links=False)
