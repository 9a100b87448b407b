"""The last line: at most as many keys as fit, the most useful first, in the language in force."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static


class KeyBar(Static):
    """Keys and what they do. The screen tells it which."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__("", id=id, markup=False)
        self._hints: Sequence[tuple[str, str]] = ()

    def show(self, hints: Sequence[tuple[str, str]]) -> None:
        """Show (key, name) pairs."""
        self._hints = hints
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        room = self.size.width or 80
        parts: list[Content] = []
        for key, name in self._hints:
            needed = cell_len(f" {key} {name}  ")
            if needed > room:
                break
            room -= needed
            parts += [Content.styled(f" {key} ", "bold $text-accent"), Content.styled(f"{name} ", "$foreground 62%")]
        self.update(Content("").join(parts))
