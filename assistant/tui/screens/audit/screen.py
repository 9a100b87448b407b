"""What an auditor does in the audit browser: check the log, judge, erase, export. What is shown is `table`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast, get_args

from textual import on
from textual.binding import BindingType
from textual.message import Message
from textual.widgets import Input

from assistant.errors import PellucidError, UsageError
from assistant.tui import auditing
from assistant.tui.backend import SessionLike
from assistant.tui.sanitize import one_line
from assistant.tui.screen_keys import screen_bindings
from assistant.tui.screens.audit.table import AuditTable
from assistant.tui.screens.dialogs import InputDialog
from assistant.tui.screens.judging import EraseDialog, JudgeDialog
from assistant.tui.text import say
from assistant.tui.told import told
from assistant.turn import Turn

_TELL_EVERY = 200  # turns


@dataclass
class Checked(Message):
    """The log was checked, or could not be."""

    check: auditing.Check | None
    error: str = ""


@dataclass
class Exporting(Message):
    """So many turns are in the file."""

    count: int
    total: int


class AuditScreen(AuditTable):
    """Answers the (conversation, turn) to jump to, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [*screen_bindings("audit")]

    def __init__(self, session: SessionLike, turn: str | None = None) -> None:
        super().__init__(session, turn)
        self._left = threading.Event()

    def on_unmount(self) -> None:
        self._left.set()

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

    def action_inspect(self) -> None:
        """See where the words of the turn came from."""
        from assistant.tui.screens.inspector import InspectorScreen

        turn = self._turn
        if turn is None or not turn.in_context or not turn.tokens:
            self.tell(say("error.nothing_to_inspect"), "warning")
        elif not self._session.ready:
            self.tell(say("error.still_loading"), "warning")
        else:
            self.app.push_screen(InspectorScreen(self._session, turn.id))

    def action_help(self) -> None:
        """Show all keys."""
        from assistant.tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen())

    def action_review(self) -> None:
        """Judge the decision about the turn; the judgement goes into the log."""
        turn = self._turn
        if turn is None:
            return
        ledger = self._session.ledger

        async def judge(judged: tuple[str, str] | None) -> None:
            if judged is None:
                return
            label, note = cast(auditing.Label, judged[0]), judged[1]
            if await self.attempt(lambda: auditing.review(ledger, turn.id, label, note), quiet=True) is not None:
                self.tell(say("audit.reviewed"))
                if self._filter == "queue":  # what is judged is done: the next one comes up
                    self._fill()
                else:
                    self._show_turn(turn.id)

        rows = [(label, say(f"audit.review_{label}")) for label in get_args(auditing.Label)]
        self.app.push_screen(JudgeDialog(say("audit.review_title"), rows), judge)

    def action_redact(self) -> None:
        """Erase the texts of the turn."""
        turn = self._turn
        if turn is None:
            return

        ledger = self._session.ledger

        async def confirmed(reason: str | None) -> None:
            if reason is None:
                return
            if await self.attempt(lambda: auditing.redact(ledger, [turn.id], None, reason or "audit"), quiet=True) is not None:
                self.tell(say("audit.redacted", count=1))
                self._fill()

        self.app.push_screen(EraseDialog(), confirmed)

    def action_export(self) -> None:
        """Write every turn that the box and the filter let through to a file."""
        from assistant.tui import export
        from assistant.tui.searching import every_turn

        ledger = self._session.ledger

        async def write(name: str | None) -> None:
            if not name:
                return
            question = self._asked(self.query_one("#audit-search", Input).value)

            def turns() -> Iterator[Turn]:
                ids = list(every_turn(ledger, question))
                auditing.note_export(ledger, name, question.filters)
                for count, id in enumerate(reversed(ids)):
                    if self._left.is_set():
                        raise UsageError(say("audit.export_stopped"))
                    if count % _TELL_EVERY == 0:
                        self.post_message(Exporting(count, len(ids)))
                    yield ledger.turn(id)
                self.post_message(Exporting(len(ids), len(ids)))

            path = await self.attempt(lambda: export.write_turns(turns(), name), quiet=True)
            if path is not None:
                self.tell(say("export.done", path=path))

        self.app.push_screen(InputDialog(say("audit.export_title"), "pellucid-audit.jsonl", say("audit.export_text")), write)

    @on(Exporting)
    def _exporting(self, event: Exporting) -> None:
        self._say_state(say("audit.exporting", count=event.count, total=event.total), "$text-accent")
