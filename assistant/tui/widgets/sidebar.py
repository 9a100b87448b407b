"""The conversations, newest first, and the box to search in all their branches.

Pages come as the cursor reaches the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from assistant.tui.format import shortened, when
from assistant.tui.rendering import marked_spans
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.tui.widgets.safe_input import SafeInput

PAGE = 50


class Sidebar(Vertical):
    """Asks for rows with messages; the screen answers with `show_conversations` or `show_hits`."""

    @dataclass
    class Wanted(Message):
        """More conversations (`before` the last one shown), or hits of `query` (`below` the record of the last one shown)."""

        query: str
        before: str | None = None
        below: int | None = None

    @dataclass
    class Chosen(Message):
        """A conversation, and the turn in it when it was a search hit."""

        conversation: str
        turn: str | None = None

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._targets: list[tuple[str, str | None]] = []
        self._last_hit: int | None = None
        self._complete = False
        self.current: str | None = None

    def compose(self) -> ComposeResult:
        yield SafeInput(placeholder=say("sidebar.search"), id="search", compact=True)
        yield OptionList(id="conversations", markup=False, compact=True)

    def on_mount(self) -> None:
        self.post_message(self.Wanted(""))

    @property
    def query_text(self) -> str:
        """What is being searched for."""
        return self.query_one(Input).value.strip()

    def search_for(self, query: str) -> None:
        """Search for `query` as if it had been typed."""
        self.query_one(Input).value = query

    def refresh_rows(self) -> None:
        """Ask for the rows again from the start."""
        self._complete = True  # nothing goes below the rows of an earlier search
        self.post_message(self.Wanted(self.query_text))

    def retranslate(self) -> None:
        """Say everything again in the language in force."""
        self.query_one(Input).placeholder = say("sidebar.search")
        self.refresh_rows()

    def show_conversations(self, rows: Sequence[Any], append: bool) -> None:
        """Show a page of conversations."""
        if not self.query(OptionList):  # read too late: the program is being left
            return
        if not append:
            self._clear()
        self._complete = len(rows) < PAGE
        self._add([(row.id, None) for row in rows], [_row(row, row.id == self.current, self._width) for row in rows])
        if not self._targets:
            self._say("sidebar.empty")

    def show_hits(self, hits: Sequence[Any], append: bool) -> None:
        """Show a page of what a search found."""
        if not self.query(OptionList):
            return
        if not append:
            self._clear()
        self._complete = len(hits) < PAGE
        self._last_hit = hits[-1].seq if hits else None
        self._add([(hit.conversation, hit.turn) for hit in hits], [_hit(hit, self._width) for hit in hits])
        if not self._targets:
            self._say("sidebar.nothing")

    def mark(self, conversation: str | None) -> None:
        """Mark the conversation that is open."""
        if conversation != self.current:
            self.current = conversation
            if not self.query_text:  # hits bear no mark
                self.refresh_rows()

    @property
    def _width(self) -> int:
        return self.query_one(OptionList).scrollable_content_region.width or 26

    def _clear(self) -> None:
        self._targets = []
        self.query_one(OptionList).clear_options()

    def _add(self, targets: list[tuple[str, str | None]], rows: list[Content]) -> None:
        self._targets += targets
        self.query_one(OptionList).add_options([Option(row) for row in rows])

    def _say(self, key: str) -> None:
        self.query_one(OptionList).add_option(Option(Content.styled(say(key), "$foreground 62% italic"), disabled=True))

    @on(Input.Changed, "#search")
    def _searched(self, event: Input.Changed) -> None:
        event.stop()
        self.refresh_rows()

    @on(Input.Submitted, "#search")
    def _to_rows(self, event: Input.Submitted) -> None:
        event.stop()
        rows = self.query_one(OptionList)
        rows.focus()
        if self._targets:
            rows.highlighted = 0

    @on(OptionList.OptionHighlighted)
    def _near_the_end(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if self._complete or event.option_index < len(self._targets) - 5:
            return
        self._complete = True  # until the page asked for has come
        if query := self.query_text:
            self.post_message(self.Wanted(query, below=self._last_hit))
        elif self._targets:
            self.post_message(self.Wanted("", before=self._targets[-1][0]))

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index < len(self._targets):
            self.post_message(self.Chosen(*self._targets[event.option_index]))


def _row(row: Any, current: bool, width: int) -> Content:
    mark = "●" if current else "!" if row.flagged else " "
    style = "$text-accent" if current else "$text-warning" if row.flagged else ""
    title = shortened(one_line(row.title, 60) or say("sidebar.untitled"), width - 5)
    about = f"  {when(row.updated_us)} · {say.counted('sidebar.turns', row.turns)}"
    return Content.assemble(Content.styled(f"{mark} {title}", style), "\n", Content.styled(about, "$foreground 62%"))


def _hit(hit: Any, width: int) -> Content:
    about = Content.styled(f"  {when(hit.created_us)} · {say('side.' + hit.side)}", "$foreground 62%")
    snippet = marked_spans(hit.snippet.replace("\n", " "), hit.matches)
    return Content.assemble("  ", snippet.truncate(2 * width - 8, ellipsis=True), "\n", about)
