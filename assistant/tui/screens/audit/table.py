"""The audit browser: every turn that was ever logged, found, filtered, read, checked; and the way back to the chat.

The table grows page by page as the cursor goes down; no page is ever counted or skipped, however long the log is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Input, Static, TabbedContent, TabPane, Tree

from assistant.tui import trace
from assistant.tui.backend import SessionLike
from assistant.tui.screens.audit.rows import cells, grow
from assistant.tui.screens.telling import TellingScreen
from assistant.tui.text import say
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.safe_input import SafeInput
from assistant.turn import Turn
from explain.attribution import Attribution

PAGE = 50
_COLUMNS = ("time", "verdict", "text", "finish", "model")
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
        self._complete = False
        self._turn: Turn | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="audit-bar"):
            yield SafeInput(placeholder=say("audit.search"), id="audit-search", compact=True)
            yield Static("", id="audit-state", markup=False)
        with Vertical(id="audit-panes"):
            table: DataTable[Text] = DataTable(id="turns", cursor_type="row", zebra_stripes=False, cell_padding=1)
            yield table
            with TabbedContent(id="detail"):
                with TabPane(Content(say("audit.tab_trace")), id="tab-trace"):
                    yield Tree("", id="trace")
                with TabPane(Content(say("audit.tab_text")), id="tab-text"), VerticalScroll():
                    yield Static("", id="texts", markup=False)
                with TabPane(Content(say("audit.tab_json")), id="tab-json"), VerticalScroll():
                    yield Static("", id="json", markup=False)
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        names = {"Enter": "jump", "Esc": "back", "/": "search", "f": "filter", "v": "verify", "w": "review", "r": "redact"}
        names["x"] = "export"
        self.query_one(KeyBar).show([(key, say(f"audit.keys_{name}")) for key, name in names.items()])
        self._say_state(say("audit.unverified"))
        table = self.query_one(DataTable)
        self._columns = tuple(name for name in _COLUMNS if name != "model" or self.app.size.width >= 90)
        for name in self._columns:
            table.add_column(Text(say(f"audit.column_{name}")), key=name)
        table.focus()
        self.query_one(Tree).show_root = True
        self._fill()
        if self._first_turn:
            self._show_turn(self._first_turn)

    # -- the table ---------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="rows")
    async def _fill(self, more: bool = False) -> None:
        ledger, query = self._session.ledger, self.query_one("#audit-search", Input).value.strip()
        before = self._rows[-1].seq if more and self._rows else None
        if query and not more:
            await asyncio.sleep(0.15)  # a search is begun when the typing pauses
        if query:
            rows = await self.attempt(lambda: list(ledger.search(query, limit=PAGE, before=before)), quiet=True)
        else:
            verdict = None if self._filter == "all" else "flagged" if self._filter == "queue" else self._filter
            reviewed = False if self._filter == "queue" else None
            rows = await self.attempt(
                lambda: list(ledger.list_turns(before=before, limit=PAGE, verdict=verdict, reviewed=reviewed)), quiet=True
            )
        rows = rows or []
        if not self.query(DataTable):  # read too late: the screen has been left
            return
        table = self.query_one(DataTable)
        if not more:
            table.clear()
            self._rows = []
        self._complete = len(rows) < PAGE
        self._rows += rows
        for row in rows:
            shown = cells(row, max(16, table.size.width - 64))
            table.add_row(*(shown[name] for name in self._columns))
        self._say_count()
        if not more:
            if rows and self._first_turn is None:
                self._show_turn(rows[0].turn)
            elif not rows and self._first_turn is None:
                self._show_nothing()
            self._first_turn = None

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

        def read() -> tuple[Turn, list[Attribution]]:
            return ledger.turn(turn), list(ledger.attributions(turn))

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
        self.query_one("#json", Static).update(Content(trace.as_json(*found)))

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
        self.query_one("#audit-search").focus()

    def action_filter(self, step: int) -> None:
        """Show only turns with the next verdict."""
        self._filter = FILTERS[(FILTERS.index(self._filter) + step) % len(FILTERS)]
        self._fill()

    def action_other_pane(self) -> None:
        """Between table and detail."""
        self.query_one(Tree).focus() if self.query_one(DataTable).has_focus else self.query_one(DataTable).focus()

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
