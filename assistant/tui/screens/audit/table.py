"""The audit browser: every turn that was ever logged, found, filtered, read, checked; and the way back to the chat.

The table grows page by page as the cursor goes down; no page is ever counted or skipped, however long the log is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static, TabbedContent, TabPane, Tree

from assistant.errors import PellucidError
from assistant.tui import auditing, trace
from assistant.tui.backend import SessionLike
from assistant.tui.commands import key_name
from assistant.tui.sanitize import one_line
from assistant.tui.screen_keys import of_screen
from assistant.tui.screens.audit.rows import cells, grow
from assistant.tui.screens.telling import TellingScreen
from assistant.tui.searching import Question, parse, read_page, usual_filters
from assistant.tui.text import say
from assistant.tui.told import told
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.safe_input import SafeInput
from assistant.tui.widgets.turn_table import TurnTable
from assistant.turn import Turn
from explain.attribution import Attribution

if TYPE_CHECKING:
    from assistant.audit.remarks import Remark

PAGE = 50
_ROOM_FOR_MODEL = 90  # cells
_COLUMNS = ("time", "verdict", "text", "finish", "model")
_TABS = ("tab-trace", "tab-text", "tab-json")
FILTERS = ("all", "flagged", "block", "caution", "redact", "queue")


class AuditTable(TellingScreen[tuple[str, str] | None]):
    """Finds and shows turns. Answers the (conversation, turn) to jump to, or None."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide"), (130, "-broad")]  # noqa: RUF012 (declared by Screen)

    def __init__(self, session: SessionLike, turn: str | None = None) -> None:
        super().__init__()
        self._session = session
        self._first_turn = turn
        self._filter = FILTERS[0]
        self._rows: list[Any] = []
        self._columns: tuple[str, ...] = ()
        self._complete = False
        self._turn: Turn | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="audit-bar"):
            yield SafeInput(placeholder=say("audit.search"), id="audit-search", compact=True, select_on_focus=False)
            yield Static("", id="audit-state", markup=False)
        with Vertical(id="audit-panes"):
            yield TurnTable(id="turns")
            with TabbedContent(id="detail"):
                with TabPane(Content(say("audit.tab_trace")), id="tab-trace"):
                    yield Tree("", id="trace")
                with TabPane(Content(say("audit.tab_text")), id="tab-text"), VerticalScroll():
                    yield Static("", id="texts", markup=False)
                with TabPane(Content(say("audit.tab_json")), id="tab-json"), VerticalScroll():
                    yield Static("", id="json", markup=False)
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        own = getattr(self.app, "own_keys", {})
        self.query_one(KeyBar).show([(key_name(keys), key.words) for key, keys in of_screen("audit", own) if key.shown])
        self._say_state(say("audit.unverified"))
        self.on_resize()
        table = self.query_one(TurnTable)
        table.focus()
        self.query_one(Tree).show_root = True
        self._fill()
        if self._first_turn:
            self._show_turn(self._first_turn)

    # -- the table ---------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="rows")
    async def _fill(self, more: bool = False) -> None:
        text = self.query_one("#audit-search", Input).value
        before = self._rows[-1].seq if more and self._rows else None
        if text and not more:
            await asyncio.sleep(0.15)  # a search is begun when the typing pauses
        problem, rows = "", []  # type: str, list[Any]
        try:
            question = self._asked(text)
            rows = await asyncio.to_thread(read_page, self._session.ledger, question, PAGE, before)
        except PellucidError as error:  # told where one types: a message in passing would come with every key
            problem = told(error)
        if not self.query(DataTable):  # read too late: the screen has been left
            return
        table = self.query_one(DataTable)
        table.border_subtitle = Content.styled(one_line(problem, 100), "$text-warning")
        if not more:
            table.clear()
            self._rows = []
        self._complete = len(rows) < PAGE
        self._rows += rows
        self._add_rows(rows)
        self._say_count()
        if not more:
            if rows and self._first_turn is None:
                self._show_turn(rows[0].turn)
            elif not rows and self._first_turn is None:
                self._show_nothing()
            self._first_turn = None

    def _asked(self, text: str) -> Question:
        """What the box and the filter ask for together; what is typed wins. Raises UsageError."""
        typed = parse(text)
        return replace(typed, filters={**usual_filters(self._filter), **typed.filters})

    def on_resize(self) -> None:
        names = tuple(name for name in _COLUMNS if name != "model" or self.size.width >= _ROOM_FOR_MODEL)
        if names == self._columns:
            return
        self._columns = names
        table = self.query_one(TurnTable)
        at = table.cursor_row
        table.set_columns({name: say(f"audit.column_{name}") for name in names})
        self._add_rows(self._rows)
        table.move_cursor(row=at)

    def _add_rows(self, rows: list[Any]) -> None:
        table = self.query_one(TurnTable)
        for row in rows:
            shown = cells(row)
            table.add_row(*(shown[name] for name in self._columns))
        table.call_after_refresh(table.fit)

    @on(DataTable.RowHighlighted)
    def _highlighted(self, event: DataTable.RowHighlighted) -> None:
        if event.cursor_row >= len(self._rows):
            return
        if not self._complete and event.cursor_row >= len(self._rows) - 5:
            self._complete = True  # until the page asked for has come
            self._fill(more=True)
        if self._first_turn is None:
            self._show_turn(self._rows[event.cursor_row].turn)

    @on(DataTable.RowSelected)
    def _selected(self, event: DataTable.RowSelected) -> None:
        if event.cursor_row < len(self._rows):
            row = self._rows[event.cursor_row]
            self.dismiss((row.conversation, row.turn))

    @on(Input.Changed, "#audit-search")
    def _searched(self, event: Input.Changed) -> None:
        event.stop()
        self._fill()

    @on(Input.Submitted, "#audit-search")
    def _to_table(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one(DataTable).focus()

    # -- one turn ----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="turn")
    async def _show_turn(self, turn: str) -> None:
        await asyncio.sleep(0.05)  # holding an arrow key reads no turn in between
        ledger = self._session.ledger

        def read() -> tuple[Turn, list[Attribution], list[Remark]]:
            return ledger.turn(turn), list(ledger.attributions(turn)), auditing.remarks(ledger, turn)

        found = await self.attempt(read, quiet=True)
        if found is None or not self.query(Tree):  # read too late: the screen has been left
            return
        self._turn = found[0]
        tree = self.query_one(Tree)
        tree.clear()
        root = trace.trace(*found)
        tree.root.set_label(Text(root.text, "bold"))
        for node in root.children:
            grow(tree.root, node)
        tree.root.expand()
        self.query_one("#texts", Static).update(trace.texts(self._turn))
        self.query_one("#json", Static).update(Content(trace.as_json(*found[:2])))

    def _show_nothing(self) -> None:
        self.workers.cancel_group(self, "turn")
        self._turn = None
        tree = self.query_one(Tree)
        tree.clear()
        tree.root.set_label(Text(say("audit.empty")))
        self.query_one("#texts", Static).update("")
        self.query_one("#json", Static).update("")

    def action_search(self) -> None:
        """Type words to search for."""
        self.set_focus(self.query_one("#audit-search"))  # at once: what is typed next belongs there

    def action_filter(self, step: int) -> None:
        """Show only turns with the next verdict."""
        self._filter = FILTERS[(FILTERS.index(self._filter) + step) % len(FILTERS)]
        self._fill()

    def action_other_pane(self) -> None:
        """Between table and detail."""
        if self.query_one(DataTable).has_focus:
            self._shown_detail().focus()
        else:
            self.query_one(DataTable).focus()

    def action_view(self) -> None:
        """Trace, texts, JSON, in turn."""
        tabs = self.query_one("#detail", TabbedContent)
        inside = self._shown_detail().has_focus
        tabs.active = _TABS[(_TABS.index(tabs.active) + 1) % len(_TABS)]
        if inside:
            self._shown_detail().focus()

    def _shown_detail(self) -> Widget:
        """What is scrolled in the tab that is shown."""
        active = self.query_one("#detail", TabbedContent).active
        return self.query_one(Tree) if active == _TABS[0] else self.query_one(f"#{active} VerticalScroll")

    def action_jump(self) -> None:
        """Go to the turn under the cursor in the chat."""
        row = self.query_one(DataTable).cursor_row
        if 0 <= row < len(self._rows):
            self.dismiss((self._rows[row].conversation, self._rows[row].turn))

    def action_leave(self) -> None:
        """Leave the search box, empty it, and at last the screen."""
        box = self.query_one("#audit-search", Input)
        if box.has_focus:
            self.query_one(DataTable).focus()
        elif box.value:
            box.value = ""
        else:
            self.dismiss(None)

    # -- telling -----------------------------------------------------------------------------------------------------

    def _say_state(self, text: str, style: str = "$foreground 62%") -> None:
        self.query_one("#audit-state", Static).update(Content.styled(text, style))

    def _say_count(self) -> None:
        words = say.counted("audit.count", len(self._rows)) if self._complete else say("audit.more", count=len(self._rows))
        self.query_one(DataTable).border_title = Content(f"{say('audit.title')} · {say('audit.filter_' + self._filter)} · {words}")
