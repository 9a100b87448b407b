"""A model being fetched: how far it is, and Esc to stop. What has arrived by then is kept where the source can go on from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from assistant.errors import PellucidError
from assistant.tui import models
from assistant.tui.format import bar
from assistant.tui.rendering import safe
from assistant.tui.sanitize import one_line
from assistant.tui.screens.once import LeftOnce
from assistant.tui.text import say
from assistant.tui.told import told


class PullDialog(LeftOnce, ModalScreen[bool]):
    """Fetches the model `name` from the moment it is shown; answers True when it is there."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "stop", "")]

    @dataclass
    class Moved(Message):
        """How far it is."""

        what: str
        fraction: float | None

    @dataclass
    class Over(Message):
        """It is there (no error), or not."""

        error: str = ""
        stopped: bool = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self._model = name
        self._stop = threading.Event()

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content(say("pull.title", name=one_line(self._model, 40)))
            yield Static("…", id="pull-progress", markup=False)
            yield Static(Content.styled(say("pull.keys"), "$foreground 62%"), markup=False)

    def on_mount(self) -> None:
        threading.Thread(target=self._run, name="pull", daemon=True).start()

    def _run(self) -> None:
        try:
            models.fetch(self._model, lambda what, fraction: self.post_message(self.Moved(what, fraction)), self._stop)
        except models.Stopped:
            self.post_message(self.Over(stopped=True))
        except PellucidError as error:
            self.post_message(self.Over(told(error)))
        else:
            self.post_message(self.Over())

    @on(Moved)
    def _moved(self, event: Moved) -> None:
        gauge = "" if event.fraction is None else f"\n{bar(event.fraction, 40)} {event.fraction:.0%}"
        self.query_one("#pull-progress", Static).update(safe(told(event.what) + gauge))

    @on(Over)
    def _over(self, event: Over) -> None:
        if event.error:
            self.query_one("#pull-progress", Static).update(safe(event.error, "$text-error"))
        else:
            self.dismiss(not event.stopped)

    def action_stop(self) -> None:
        """Stop fetching; leave when nothing is being fetched."""
        self._stop.set()
        self.dismiss(False)
