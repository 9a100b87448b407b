"""Two windows of the audit browser that take words into the log: a judgement with a note, and an erasure with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from assistant.tui.rendering import safe
from assistant.tui.sanitize import one_line
from assistant.tui.screens.once import LeftOnce
from assistant.tui.text import say
from assistant.tui.widgets.safe_input import SafeInput

NOTE, REASON = 1000, 200
"""Characters that a note and a reason may have."""


class JudgeDialog(LeftOnce, ModalScreen[tuple[str, str] | None]):
    """A list of (label, words) and a line for a note; answers label and note, None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "")]

    def __init__(self, title: str, choices: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._choices = title, choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content(one_line(self._title))
            yield OptionList(*(Option(Content("  " + words)) for _, words in self._choices), markup=False, compact=True)
            yield SafeInput(placeholder=say("audit.review_note"), max_length=NOTE, compact=True)
            yield Static(Content.styled(say("audit.review_keys"), "$foreground 62%"), markup=False)

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _answer(self) -> None:
        at = self.query_one(OptionList).highlighted
        if at is not None:
            self.dismiss((self._choices[at][0], self.query_one(Input).value.strip()))


class EraseDialog(LeftOnce, ModalScreen[str | None]):
    """A question with a line for the reason; answers the reason (maybe empty) only when it was confirmed. The safe answer has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,n", "dismiss(None)", ""), ("y", "confirm", "")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -warning") as box:
            box.border_title = Content(say("audit.redact_title"))
            with VerticalScroll(classes="dialog-text"):
                yield Static(safe(say("audit.redact_text")), markup=False)
            yield SafeInput(placeholder=say("audit.redact_reason"), max_length=REASON, compact=True)
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(say("dialog.cancel")), id="cancel", variant="primary", compact=True)
                yield Button(Content(say("delete.confirm")), id="confirm", variant="error", compact=True)

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()

    @on(Input.Submitted)
    def _reason_given(self) -> None:
        self.query_one("#confirm").focus()  # a second Enter erases

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.action_confirm() if event.button.id == "confirm" else self.dismiss(None)

    def action_confirm(self) -> None:
        """Erase, for the reason that was typed."""
        self.dismiss(self.query_one(Input).value.strip())
