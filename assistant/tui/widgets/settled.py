"""Widgets that a layout leaves in peace.

Textual lays the whole screen out once more whenever a layout has given some widget another size, in case it scrolls. The parts of a
transcript grow with every line of a reply, and none of them scrolls by itself: for them the second layout changes nothing.
"""

from __future__ import annotations

from textual.geometry import Size
from textual.reactive import Reactive


class Settled:
    """Mix in before the real base class: another size alone is no reason for another layout.

    No widget itself, because Textual takes the style sheet of a class from its first base that is one.
    """

    virtual_size = Reactive(Size(0, 0), layout=False)
