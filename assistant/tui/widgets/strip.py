"""The four-stage strip above the message box; a click on it opens the audit trace of the turn."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.message import Message
from textual.widgets import Static

from assistant.tui.stages import Stages


class Strip(Static):
    """One line, drawn again only when a stage has changed."""

    @dataclass
    class Opened(Message):
        """The strip was clicked."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__("", id=id, markup=False)
        self._stages = Stages()

    def show(self, stages: Stages) -> None:
        """Show `stages`."""
        if stages != self._stages:
            self._stages = stages
            self.retranslate()

    def retranslate(self) -> None:
        """Draw the line again in the language in force."""
        self.update(self._stages.line(self.size.width or 120), layout=False)

    def on_resize(self) -> None:
        self.retranslate()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Opened())
