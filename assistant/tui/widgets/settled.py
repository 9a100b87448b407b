"""Widgets that a layout leaves in peace.

Textual lays the whole screen out once more whenever a layout has given some widget another size, in case it scrolls. The parts of a
transcript grow with every line of a reply, and none of them scrolls by itself: for them the second layout changes nothing.
"""

from __future__ import annotations

from textual.geometry import Region, Size
from textual.reactive import Reactive
from textual.strip import Strip


class Settled:
    """Mix in before the real base class: another size alone is no reason for another layout.

    No widget itself, because Textual takes the style sheet of a class from its first base that is one.
    """

    virtual_size = Reactive(Size(0, 0), layout=False)


class Uniform(Settled):
    """A box that shows nothing of its own, so that one line of it looks like any other: it has no border above or below.

    Every layout that makes it longer would have all of its lines drawn again.
    """

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines in `crop`, of which only the first is drawn."""
        lines: list[Strip] = super().render_lines(Region(crop.x, crop.y, crop.width, min(1, crop.height)))  # type: ignore[misc]
        return lines * crop.height
