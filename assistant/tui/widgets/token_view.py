"""Words that can be picked one by one, with keys or the mouse, each on the ground of its heat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.message import Message
from textual.widgets import Static

from assistant.tui.heat import heat_map
from assistant.tui.tokens import Unit


class TokenView(Static):
    """Shows units; the screen moves the cursor, a click reports the unit under it."""

    @dataclass
    class Picked(Message):
        """A unit was clicked."""

        view: TokenView
        unit: int

    def __init__(self, id: str | None = None) -> None:
        super().__init__("", id=id, markup=False)
        self.units: Sequence[Unit] = ()
        self.scores: Sequence[float] = ()
        self.picked: int | None = None

    def show(self, units: Sequence[Unit], scores: Sequence[float], picked: int | None = None) -> None:
        """Show `units` with their `scores`, the one `picked` reversed."""
        self.units, self.scores, self.picked = units, scores, picked
        self.update(heat_map(units, scores, self.background_colors[1], picked))

    def on_click(self, event: events.Click) -> None:
        unit = event.style.meta.get("unit")
        if isinstance(unit, int):
            event.stop()
            self.post_message(self.Picked(self, unit))

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self.units:
            self.show(self.units, self.scores, self.picked)
