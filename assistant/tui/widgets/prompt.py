"""The message box: Enter sends, Shift+Enter or Ctrl+J makes a new line, ↑ on the first line brings back earlier
prompts.

What is in the box is what will be sent: control characters become visible signs the moment they are pasted. A very long
text stands in the box as one word ⟦…⟧ that is the text again when it is sent: wrapping a megabyte at every key would stall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea
from textual.widgets.text_area import Edit, EditResult

from assistant.tui.sanitize import sanitize
from assistant.tui.text import say

LONG = 20_000
"""A pasted text longer than this is folded."""


class PromptInput(TextArea):
    """A text area that grows with its text."""

    BINDINGS: ClassVar = [
        Binding("shift+enter,ctrl+j,alt+enter", "newline", show=False),
        Binding("up", "earlier", show=False),
        Binding("down", "later", show=False),
        Binding("ctrl+e", "edit_or_end", show=False),
    ]

    @dataclass
    class Submitted(Message):
        """Enter was pressed on a text that is not blank."""

        text: str

    @dataclass
    class EditLast(Message):
        """Ctrl+E was pressed in the empty box."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, soft_wrap=True, tab_behavior="focus", highlight_cursor_line=False)
        self.cursor_blink = False  # a blinking cursor is most of what an idle screen costs
        self._earlier: list[str] = []
        self._at = 0  # position in the history; its length means the draft
        self._draft = ""
        self._folded: dict[str, str] = {}

    @property
    def full_text(self) -> str:
        """What would be sent: the text of the box with every folded text in its place."""
        text = self.text
        for word, folded in self._folded.items():
            text = text.replace(word, folded)
        return text

    def _fold(self, text: str) -> str:
        if len(text) <= LONG:
            return text
        word = say("prompt.folded", number=len(self._folded) + 1, count=len(text))
        self._folded[word] = sanitize(text)
        return word

    def remember(self, prompts: list[str]) -> None:
        """Make `prompts` (oldest first) the history."""
        self._earlier = [sanitize(self._fold(p)) for p in prompts]
        self._at = len(self._earlier)

    def take(self) -> str:
        """What is to be sent, leaving the box empty and its text in the history."""
        text, full = self.text, self.full_text
        if text.strip() and self._earlier[-1:] != [text]:
            self._earlier.append(text)
        self._at = len(self._earlier)
        self._draft = ""
        self.load_text("")
        return full

    def put(self, text: str) -> None:
        """Put `text` in the box without losing what is there: that moves below it."""
        kept, text = self.text, self._fold(text)
        self.load_text(text + ("\n\n" + kept if kept.strip() else ""))
        self.move_cursor(self.document.end)
        self.focus()

    def load_text(self, text: str) -> None:
        super().load_text(sanitize(text))

    def edit(self, edit: Edit) -> EditResult:
        edit.text = sanitize(edit.text)
        return super().edit(edit)

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            if self.text.strip():
                self.post_message(self.Submitted(self.full_text))

    async def _on_paste(self, event: events.Paste) -> None:
        if len(event.text) > LONG:  # shorter ones are pasted by the base class, whose handler comes next
            event.stop()
            event.prevent_default()
            self.insert(self._fold(event.text))

    def action_newline(self) -> None:
        """Break the line at the cursor."""
        self.insert("\n", maintain_selection_offset=False)

    def action_earlier(self) -> None:
        """The previous prompt, when the cursor is on the first line on the screen."""
        if self._row != 0 or not self._at:
            return self.action_cursor_up()
        if self._at == len(self._earlier):
            self._draft = self.text
        self._at -= 1
        self._recall(self._earlier[self._at])
        return None

    def action_later(self) -> None:
        """The next prompt, and at last the draft, when the cursor is on the last line on the screen."""
        if self._row < self.wrapped_document.height - 1 or self._at >= len(self._earlier):
            return self.action_cursor_down()
        self._at += 1
        self._recall(self._draft if self._at == len(self._earlier) else self._earlier[self._at])
        return None

    def action_edit_or_end(self) -> None:
        """In the empty box take up the last prompt again, else go to the end of the line."""
        if self.text:
            self.action_cursor_line_end()
        else:
            self.post_message(self.EditLast())

    @property
    def _row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def _recall(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)
