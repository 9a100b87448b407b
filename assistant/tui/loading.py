"""The model being loaded behind the first paint: a thread that reports how far it is and how it ended.

A daemon thread: a person who leaves while a model is being fetched does not wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from assistant.tui.backend import SessionLike

_EVERY = 0.1  # seconds between reports, so that a fast download does not flood the screen


@dataclass
class LoadProgress(Message):
    """What is being done, and the fraction done when that is known."""

    what: str
    fraction: float | None


@dataclass
class Loaded(Message):
    """The model is ready."""

    seconds: float


@dataclass
class LoadFailed(Message):
    """The model cannot be loaded; the message of `error` says what to do."""

    error: Exception


def load_in_background(session: SessionLike, post: Callable[[Message], object]) -> threading.Thread:
    """Load the model of `session`; `post` is called from the thread with the messages of this module."""
    began = time.monotonic()
    last = ("", 0.0)

    def progress(what: str, fraction: float | None) -> None:
        nonlocal last
        now = time.monotonic()
        if what != last[0] or now - last[1] >= _EVERY:
            last = (what, now)
            post(LoadProgress(what, fraction))

    def run() -> None:
        try:
            session.load(progress)
        except Exception as error:  # handed to the screen, which shows it
            post(LoadFailed(error))
        else:
            post(Loaded(time.monotonic() - began))

    thread = threading.Thread(target=run, name="load", daemon=True)
    thread.start()
    return thread
