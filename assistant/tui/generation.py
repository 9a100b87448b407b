"""One reply in the making: a thread that runs the pipeline and a queue that the screen empties a few times a second.

The thread touches no widget and the screen never waits for it. It is a daemon thread, so that leaving the program
need not wait for a long prompt to be read: what was written until then is in the ledger's journal.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from assistant.events import Event, Text, Token
from assistant.pipeline import Request
from assistant.tui.backend import SessionLike


@dataclass(frozen=True, slots=True)
class Failed:
    """The pipeline raised; nothing more follows but `Ended`."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Ended:
    """Last of all, however it ended."""


Item = Event | Failed | Ended


class Generation:
    """Answers `request` in the background from the moment it is made."""

    def __init__(self, session: SessionLike, request: Request) -> None:
        self.request = request
        self.stopping = False
        self._session = session
        self._cancel = threading.Event()
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self._session.respond(self.request, self._cancel):
                self._items.put(event)
        except Exception as error:  # handed to the screen, which shows it
            self._items.put(Failed(error))
        finally:
            self._items.put(Ended())

    def stop(self) -> None:
        """End the reply after the current token; what was written is kept."""
        self.stopping = True
        self._cancel.set()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; False when it is still running."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def drain(self) -> list[Item]:
        """What has happened since the last call; texts with nothing but tokens between them are joined into one."""
        out: list[Item] = []
        text: int | None = None  # where a text stands that the next one may be joined to
        while True:
            try:
                item = self._items.get_nowait()
            except queue.Empty:
                return out
            if isinstance(item, Text) and text is not None and isinstance(before := out[text], Text):
                out[text] = Text(before.text + item.text)
                continue
            if isinstance(item, Text):
                text = len(out)
            elif not isinstance(item, Token):
                text = None
            out.append(item)
