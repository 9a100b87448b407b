"""The open end of a growing reply: plain text of which only the lines that have changed are wrapped and drawn again.

It takes its room several lines at a time, so that most new lines fall into room that is there already: giving a widget another height
lays out and draws everything above it, and that is what costs.
"""

from __future__ import annotations

import itertools

from rich.segment import Segment
from textual.events import Resize
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from assistant.tui.widgets.settled import Settled
from assistant.tui.wrapping import divide_line

STEP = 5
"""Lines taken at once."""


class Tail(Settled, Widget):
    """Text that is written at its end; sanitised by whoever shows it."""

    def __init__(self) -> None:
        super().__init__(classes="tail")
        self._text = ""
        self._lines: list[str] = []
        self._open = (0, 0)  # where the last paragraph begins: in the text, among the lines
        self._wrapped_at = 0
        self._room = STEP

    @property
    def lines(self) -> list[str]:
        """The text as it is broken."""
        return self._lines

    def show(self, text: str) -> bool:
        """Show `text`; as long as it begins with what was shown before, only its end is looked at. Whether a layout follows from it."""
        text = text.strip("\n")
        before = len(self._lines)
        changed = 0
        if text.startswith(self._text) and self._wrapped_at:
            changed = self._open[1]
        else:
            self._open = (0, 0)
        self._text = text
        self._wrap()
        if len(self._lines) > self._room or self.display != bool(text) or (before and changed == 0 and len(self._lines) < before):
            self._room = -(-max(1, len(self._lines)) // STEP) * STEP
            self.display = bool(text)
            self.refresh(layout=True)
            return True
        height = max(before, len(self._lines)) - changed
        if height > 0:
            self.refresh(Region(0, changed, self.size.width, height))
        return False

    def _wrap(self) -> None:
        width = self.content_size.width
        if width <= 0:
            return
        if width != self._wrapped_at:
            self._wrapped_at, self._open = width, (0, 0)
        at, line = self._open
        del self._lines[line:]
        for paragraph in self._text[at:].split("\n"):
            self._open = (at, len(self._lines))
            at += len(paragraph) + 1
            shown = paragraph.expandtabs(4)
            cut = [0, *divide_line(shown, width), len(shown)]
            self._lines += [shown[a:b].rstrip() for a, b in itertools.pairwise(cut)]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._room

    def on_resize(self, event: Resize) -> None:
        if self.content_size.width != self._wrapped_at:
            self._open = (0, 0)
            self._wrap()
            if len(self._lines) > self._room:
                self._room = -(-len(self._lines) // STEP) * STEP
                self.refresh(layout=True)
            else:
                self.refresh()

    def render_line(self, y: int) -> Strip:
        style = self.visual_style.rich_style
        text = self._lines[y] if y < len(self._lines) else ""
        return Strip([Segment(text, style)]).adjust_cell_length(self.content_size.width, style)
