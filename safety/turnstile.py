"""Who may compute next, where many threads want to: prompts before replies, as many at once as there are processors, of which replies leave
one free.

Whoever asks waits for the verdict on the prompt before anything begins; a reply under way is held back a little longer instead.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


class Turnstile:
    """`places` threads at once; those that come `first` go before all others, which never take the last of several places."""

    def __init__(self, places: int | None = None) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self._free = places or (len(affinity(0)) if affinity else os.cpu_count() or 1)
        self._kept = min(self._free - 1, 1)
        self._first_waiting = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def place(self, *, first: bool) -> Iterator[None]:
        """Wait for a place, and hold it."""
        with self._changed:
            self._first_waiting += first
            try:
                self._changed.wait_for(lambda: self._free > 0 if first else self._free > self._kept and not self._first_waiting)
                self._free -= 1
            finally:
                self._first_waiting -= first
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
