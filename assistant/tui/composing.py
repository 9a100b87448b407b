"""Drawing only what has changed.

For a changed line Textual draws, from the front to the back, every widget of the screen that shows through the same opening, in its whole
height, although the front-most wins. A growing reply changes a line or two at a time, under six containers as high as the screen: there
that is most of what a frame costs.
"""

from __future__ import annotations

from collections.abc import Iterable

from textual._compositor import Compositor
from textual.geometry import Region
from textual.strip import Strip


class SparingCompositor(Compositor):
    """Draws the lines that are asked for, and no widget behind one that hides all of it."""

    def _get_renders(self, crop: Region | None = None) -> Iterable[tuple[Region, Region, list[Strip]]]:
        """Each visible widget's place, the part of it that is drawn, and its lines there; the front-most first."""
        wanted = crop if crop is not None else self.size.region
        drawn: list[Region] = []
        for widget, (region, clip) in self.visible_widgets.items():
            visible = region.intersection(clip)
            needed = visible.intersection(wanted)
            if not needed or any(front.contains_region(needed) for front in drawn):
                continue
            drawn.append(needed)
            rows = Region(visible.x, needed.y, visible.width, needed.height)
            yield region, rows, widget.render_lines(rows.translate(-region.offset))
