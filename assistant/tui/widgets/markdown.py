"""Markdown of untrusted origin:
nothing is fetched or opened, raw HTML is shown as text, single line breaks are kept.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.widgets import Markdown

from assistant.tui.sanitize import sanitize


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


class SafeMarkdown(Markdown):
    """Textual's Markdown behind the sanitiser. A clicked link is reported, never followed."""

    def __init__(self, text: str = "", classes: str | None = None) -> None:
        super().__init__(sanitize(text), classes=classes, parser_factory=parser, open_links=False)
