"""What an auditor does in the audit browser: check the log, judge, erase, export. What is shown is `table`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar, Literal

from textual import on
from textual.binding import BindingType
from textual.message import Message

from assistant.errors import PellucidError
from assistant.tui import auditing
from assistant.tui.sanitize import one_line
from assistant.tui.screens.audit.table import AuditTable
from assistant.tui.screens.dialogs import ChoiceDialog, ConfirmDialog, InputDialog
from assistant.tui.text import say
from assistant.tui.told import told


@dataclass
class Checked(Message):
    """The log was checked, or could not be."""

    check: auditing.Check | None
    error: str = ""


class AuditScreen(AuditTable):
    """Answers the (conversation, turn) to jump to, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,f4", "leave", ""),
        ("q", "leave", ""),
        ("slash", "search", ""),
        ("f", "filter(1)", ""),
        ("F", "filter(-1)", ""),
        ("v", "verify", ""),
        ("x", "export", ""),
        ("f3,i", "inspect", ""),
        ("f1", "help", ""),
        ("r", "redact", ""),
        ("w", "review", ""),
        ("tab", "other_pane", ""),
    ]

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
