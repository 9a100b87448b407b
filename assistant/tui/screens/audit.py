"""The audit browser: every turn that was ever logged, found, filtered, read, checked; and the way back to the chat.

The table grows page by page as the cursor goes down; no page is ever counted or skipped, however long the log is.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable, Input, Static, TabbedContent, TabPane, Tree
from textual.widgets.tree import TreeNode

from assistant.errors import PellucidError
from assistant.tui import auditing, trace
from assistant.tui.backend import SessionLike
from assistant.tui.format import FINISH_MARKS, MARKS, category, moment, shortened
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import ChoiceDialog, ConfirmDialog, InputDialog
from assistant.tui.screens.telling import TellingScreen
from assistant.tui.text import say
from assistant.tui.told import told
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.safe_input import SafeInput
from assistant.turn import Turn
from explain.attribution import Attribution
from safety.verdict import Action

PAGE = 50
_COLUMNS = ("time", "verdict", "text", "finish", "model")
FILTERS = ("all", "flagged", "block", "caution", "redact", "queue")
_STYLES = {"allow": "green", "caution": "yellow", "redact": "cyan", "block": "red"}


@dataclass
class Checked(Message):
    """The log was checked, or could not be."""

    check: auditing.Check | None
    error: str = ""


class AuditScreen(TellingScreen[tuple[str, str] | None]):
    """Answers the (conversation, turn) to jump to, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,f4", "leave", ""),
        ("q", "leave", ""),
        ("slash", "search", ""),
        ("f", "filter(1)", ""),
        ("F", "filter(-1)", ""),
        ("v", "verify", ""),
        ("x", "export", ""),
        ("r", "redact", ""),
        ("w", "review", ""),
        ("tab", "other_pane", ""),
    ]
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
            cells = _cells(row, max(16, table.size.width - 64))
            table.add_row(*(cells[name] for name in self._columns))
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
            _grow(tree.root, node)
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

    # -- deeds -------------------------------------------------------------------------------------------------------

    def action_search(self) -> None:
        """Type words to search for."""
        self.query_one("#audit-search").focus()

    def action_filter(self, step: int) -> None:
        """Show only turns with the next verdict."""
        self._filter = FILTERS[(FILTERS.index(self._filter) + step) % len(FILTERS)]
        self._fill()

    def action_verify(self) -> None:
        """Check every hash of the log, in the background."""
        self._say_state(say("audit.verifying"), "$text-accent")

        def run() -> None:
            try:
                self.post_message(Checked(auditing.check(self._session.ledger)))
            except PellucidError as error:
                self.post_message(Checked(None, str(error)))

        threading.Thread(target=run, name="verify", daemon=True).start()

    @on(Checked)
    def _checked(self, event: Checked) -> None:
        if event.check is None:
            self._say_state(one_line(told(event.error), 80), "$text-warning")
        elif event.check.sound:
            self._say_state(say("audit.sound", records=event.check.records), "$text-success")
        else:
            self._say_state(say("audit.broken", summary=one_line(event.check.summary, 100)), "$text-error")

    def action_review(self) -> None:
        """Judge the decision about the turn; the judgement goes into the log."""
        turn = self._turn
        if turn is None:
            return
        labels: tuple[Literal["safe", "unsafe", "unsure"], ...] = ("safe", "unsafe", "unsure")

        async def judge(label: str | None) -> None:
            chosen = next((one for one in labels if one == label), None)
            if chosen and await self.attempt(lambda: auditing.review(self._session.ledger, turn.id, chosen), quiet=True) is not None:
                self.tell(say("audit.reviewed"))

        rows = [(label, say(f"audit.review_{label}"), "") for label in labels]
        self.app.push_screen(ChoiceDialog(say("audit.review_title"), rows), judge)

    def action_redact(self) -> None:
        """Erase the texts of the turn."""
        turn = self._turn
        if turn is None:
            return

        async def confirmed(sure: bool | None) -> None:
            if sure and await self.attempt(lambda: auditing.redact(self._session.ledger, [turn.id], None, "audit"), quiet=True) is not None:
                self.tell(say("audit.redacted", count=1))
                self._fill()

        self.app.push_screen(ConfirmDialog(say("audit.redact_title"), say("audit.redact_text"), say("delete.confirm")), confirmed)

    def action_export(self) -> None:
        """Write the turns of the list to a file."""
        from assistant.tui import export

        ids = [row.turn for row in self._rows]

        async def write(name: str | None) -> None:
            if not name:
                return
            ledger = self._session.ledger
            path = await self.attempt(lambda: export.write_turns([ledger.turn(id) for id in reversed(ids)], name), quiet=True)
            if path is not None:
                self.tell(say("export.done", path=path))

        self.app.push_screen(InputDialog(say("audit.export_title"), "pellucid-audit.jsonl", say("audit.export_text")), write)

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


def _cells(row: Any, room: int) -> dict[str, Text]:
    action = row.verdict or "allow"
    score = f" {row.score:.2f}" if hasattr(row, "score") else ""
    named = f" {category(row.category)}" if getattr(row, "category", "") and action != "allow" else ""
    mark = MARKS[Action(action)] if action in tuple(Action) else "·"
    finish = getattr(row, "finish", "")
    prompt = row.prompt if hasattr(row, "prompt") else row.snippet
    erased = getattr(row, "erased", False) and not prompt
    return {
        "time": Text(moment(row.created_us)[5:16]),
        "verdict": Text(one_line(f"{mark} {say.get('action.' + action, action)}{named}{score}", 34), _STYLES.get(action, "")),
        "finish": Text(f"{FINISH_MARKS.get(finish, '·')} {say.get('finish.' + finish, finish)}" if finish else ""),
        "model": Text(one_line(getattr(row, "model", ""), 18)),
        "text": Text(say("audit.erased") if erased else shortened(one_line(prompt, 200), room)),
    }


def _grow(parent: TreeNode[Any], node: trace.Node) -> None:
    label = Text(node.text)
    if not node.children:
        parent.add_leaf(label)
        return
    branch = parent.add(label, expand=True)
    for child in node.children:
        _grow(branch, child)
