"""Small windows over a screen: something to read, to confirm, to type, or to choose from. Esc always leaves them."""

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


class MessageDialog(LeftOnce, ModalScreen[bool]):
    """Something to read. Answers True when the second button (if any) was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(False)", "")]

    def __init__(self, title: str, text: str, other: str = "", error: bool = False) -> None:
        super().__init__()
        self._title, self._text, self._other, self._error = title, text, other, error

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -error" if self._error else "dialog") as box:
            box.border_title = Content(one_line(self._title))
            with VerticalScroll(classes="dialog-text"):
                yield Static(safe(self._text), markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(say("dialog.close")), id="close", variant="primary", compact=True)
                if self._other:
                    yield Button(Content(self._other), id="other", compact=True)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "other")


class ConfirmDialog(LeftOnce, ModalScreen[bool]):
    """A question; answers True only when it was confirmed. The safe answer has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,n", "dismiss(False)", ""), ("y", "dismiss(True)", "")]

    def __init__(self, title: str, text: str, confirm: str) -> None:
        super().__init__()
        self._title, self._text, self._confirm = title, text, confirm

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -warning") as box:
            box.border_title = Content(one_line(self._title))
            with VerticalScroll(classes="dialog-text"):
                yield Static(safe(self._text), markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(say("dialog.cancel")), id="cancel", variant="primary", compact=True)
                yield Button(Content(self._confirm), id="confirm", variant="error", compact=True)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "confirm")


class InputDialog(LeftOnce, ModalScreen[str | None]):
    """One line to type; answers None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "")]

    def __init__(self, title: str, value: str = "", text: str = "") -> None:
        super().__init__()
        self._title, self._value, self._text = title, value, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content(one_line(self._title))
            if self._text:
                yield Static(safe(self._text), classes="dialog-note", markup=False)
            yield SafeInput(self._value, compact=True)
            yield Static(Content.styled(say("dialog.input_keys"), "$foreground 62%"), markup=False)

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


class ChoiceDialog(LeftOnce, ModalScreen[str | None]):
    """A list of (id, label, explanation); answers the id chosen, None when it was left."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "")]

    def __init__(self, title: str, choices: Sequence[tuple[str, str, str]], current: str = "") -> None:
        super().__init__()
        self._title, self._choices, self._current = title, choices, current

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content(one_line(self._title))
            yield OptionList(*(Option(self._row(choice)) for choice in self._choices), markup=False, compact=True)

    def on_mount(self) -> None:
        ids = [id for id, _, _ in self._choices]
        if self._current in ids:
            self.query_one(OptionList).highlighted = ids.index(self._current)

    def _row(self, choice: tuple[str, str, str]) -> Content:
        id, label, about = choice
        mark = "● " if id == self._current else "  "
        second = Content.styled(f"\n    {one_line(about, 160)}" if about else "", "$foreground 62%")
        return Content.assemble(mark + one_line(label, 70), second)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index][0])
