"""What all large screens have in common: blocking work goes to a thread, and what goes wrong is told, never thrown away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, TypeVar

from textual.screen import Screen, ScreenResultType

from assistant.errors import PellucidError
from assistant.tui.composing import SparingCompositor
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import MessageDialog
from assistant.tui.screens.once import LeftOnce
from assistant.tui.text import say
from assistant.tui.told import told

_T = TypeVar("_T")


class TellingScreen(LeftOnce, Screen[ScreenResultType]):
    """A screen that asks the ledger and tells the person."""

    def __init__(self) -> None:
        super().__init__()
        self._compositor = SparingCompositor()

    async def attempt(self, job: Callable[[], _T], quiet: bool = False) -> _T | None:
        """Run a blocking `job` in a thread; an error is shown (in passing when `quiet`) and gives None."""
        try:
            return await asyncio.to_thread(job)
        except PellucidError as error:
            if quiet:
                self.tell(told(error), "warning")
            else:
                self.show_error(error)
            return None

    def show_error(self, error: Exception, title: str = "") -> None:
        """Show what went wrong, and go on."""
        known = isinstance(error, PellucidError)
        text = told(error) if known else f"{type(error).__name__}: {error}"
        self.app.push_screen(MessageDialog(title or say("error.title"), text, error=True))

    def tell(self, text: str, severity: Literal["information", "warning"] = "information") -> None:
        """Say something in passing."""
        self.app.notify(one_line(text, 400), severity=severity, markup=False, timeout=6)
