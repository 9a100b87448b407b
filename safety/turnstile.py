"""Who may compute next, where many threads want to: prompts before replies, each in the order they came, as many at once as there are
processors, of which replies leave one free.

Whoever asks waits for the verdict on the prompt before anything begins; a reply under way is held back a little longer instead. Who gets
a place does the work of those of its kind that wait behind it as well, as far as that is not too much: texts that are read together take
less time than one after the other.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(slots=True, eq=False)
class _Turn(Generic[Given, Made]):
    """One thread's work; `along` is set for who has a place: what it does, its own first."""

    given: Given
    weight: int
    called: threading.Event = field(default_factory=threading.Event)
    along: list[_Turn[Given, Made]] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    error: Exception | None = None


class Turnstile(Generic[Given, Made]):
    """Has `work` done in `places` threads at once, for several at a time of at most `room` weight together; one that is heavier is done
    alone. `work` gets what was given, of one kind only, and returns as many results."""

    def __init__(self, work: Callable[[Sequence[Given]], Sequence[Made]], room: int, places: int | None = None) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self._work, self._room = work, room
        self._free = places or (len(affinity(0)) if affinity else os.cpu_count() or 1)
        self._kept = min(self._free - 1, 1)
        self._mutex = threading.Lock()
        self._first: deque[_Turn[Given, Made]] = deque()
        self._others: deque[_Turn[Given, Made]] = deque()

    def do(self, given: Given, weight: int, *, first: bool) -> Made:
        """The result of the work on `given`; those that come `first` go before all others, which never take the last of several
        places. Raises what the work raises."""
        turn: _Turn[Given, Made] = _Turn(given, weight)
        queue = self._first if first else self._others
        with self._mutex:
            queue.append(turn)
            self._call()
        try:
            turn.called.wait()
            if turn.along:
                self._run(turn)
        finally:
            with self._mutex:
                if turn in queue:  # interrupted while it waited
                    queue.remove(turn)
                if turn.along:
                    queue.extendleft(other for other in reversed(turn.along) if other is not turn and not other.called.is_set())
                    self._free += 1
                    self._call()
        if turn.error is not None:
            raise turn.error
        return turn.made[0]

    def _call(self) -> None:
        """Give free places away."""
        while queue := self._next():
            turn = queue.popleft()
            turn.along, room = [turn], self._room - turn.weight
            while queue and queue[0].weight <= room:
                room -= queue[0].weight
                turn.along.append(queue.popleft())
            self._free -= 1
            turn.called.set()

    def _next(self) -> deque[_Turn[Given, Made]]:
        """Whose turn it is; empty where nobody waits or no place is free."""
        if self._first:
            return self._first if self._free else deque()
        return self._others if self._free > self._kept else deque()

    def _run(self, turn: _Turn[Given, Made]) -> None:
        """Everything that goes along; where that fails its own work alone, and the others try themselves."""
        try:
            made = self._work([each.given for each in turn.along])
        except Exception as error:
            if len(turn.along) == 1:
                turn.error = error
                return
            for other in turn.along[1:]:
                other.weight = self._room + 1
            made = self._work([turn.given])
            turn.made.append(made[0])
            return
        for each, result in zip(turn.along, made, strict=True):
            each.made.append(result)
            if each is not turn:
                each.called.set()
