"""Screens that are left once.

Textual takes the top screen away for every `dismiss`, whichever screen asks for it. Two keys pressed before the first is handled, or a
thread that reports its end to a dialog that has just been closed, would take the chat away from under the person.
"""

from __future__ import annotations

from typing import Any

from textual.await_complete import AwaitComplete


class LeftOnce:
    """Mix in before the kind of screen: once it is left, it cannot take another screen with it."""

    is_active: bool

    def dismiss(self, result: Any = None) -> AwaitComplete:
        """Leave, and answer `result`; nothing happens when the screen is not the one on top."""
        left: AwaitComplete
        if self.is_active:
            left = super().dismiss(result)  # type: ignore[misc]
        else:
            left = AwaitComplete.nothing()  # type: ignore[no-untyped-call]
        return left
