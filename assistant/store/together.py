"""Group commit: what several threads want to write at the same time is one transaction, so that they wait for the disk once and not one
after the other (DeWitt et al. 1984, "Implementation techniques for main memory database systems").

A thread hands in its work and waits for the lock. Whoever gets it runs all the work that has been handed in by then; the others find
theirs done. A transaction of several that fails is taken back, and each piece of work is tried alone: a failure is its own. Only where no
transaction could be begun, because another program was writing all the time, it is everybody's, and nobody waits for that once more.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from assistant.store.append import Appender

Write = Callable[[sqlite3.Connection], Callable[[], object] | None]
"""Writes inside a transaction; returns what takes back its changes outside of the database, should it not become durable."""


@dataclass(slots=True, eq=False)
class Work:
    """One thread's part of a transaction."""

    write: Write
    tried: bool = False
    """Whether a transaction was begun for it."""
    done: bool = False
    error: Exception | None = None


class Together:
    """The write side of one connection; `lock` is held while anything is written."""

    def __init__(self, appender: Appender, lock: Callable[[], AbstractContextManager[object]]) -> None:
        self._appender, self._lock = appender, lock
        self._waiting: list[Work] = []
        self._mutex = threading.Lock()

    def commit(self, write: Write) -> None:
        """Run `write` inside a transaction; it is durable when this returns. Raises what `write` or the database raises."""
        work = Work(write)
        with self._mutex:
            self._waiting.append(work)
        try:
            with self._lock():
                if not work.done:
                    self._write_all(work)
        except Exception:
            if not work.done:  # another thread may have done it before the lock was refused
                raise
        finally:
            with self._mutex:
                if work in self._waiting:  # the lock could not be had
                    self._waiting.remove(work)
        if work.error is not None:
            raise work.error

    def _write_all(self, own: Work) -> None:
        """Everything that waits, and `own` work in any case: an interrupted thread may have taken it out of the queue."""
        works = [own]
        try:
            with self._mutex:
                works = self._waiting if own in self._waiting else [own, *self._waiting]
                self._waiting = []
            if len(works) == 1 or not self._transaction(works):
                for work in works:
                    try:
                        self._run([work])
                    except Exception as error:
                        work.error = error
                    work.done = True
        except BaseException:  # this thread is interrupted: the others do their work themselves
            with self._mutex:
                self._waiting = [work for work in works if not work.done and work not in self._waiting] + self._waiting
            raise

    def _transaction(self, works: Sequence[Work]) -> bool:
        """All of it at once; False where that failed, nothing of it was written, and each must be tried alone."""
        try:
            self._run(works)
        except Exception as error:
            if works[0].tried:
                return False
            for work in works:
                work.error = error
        for work in works:
            work.done = True
        return True

    def _run(self, works: Sequence[Work]) -> None:
        undo: list[Callable[[], object]] = []
        try:
            with self._appender.transaction() as connection:
                for work in works:
                    work.tried = True
                    if (back := work.write(connection)) is not None:
                        undo.append(back)
        except BaseException:
            for back in reversed(undo):
                back()
            raise
