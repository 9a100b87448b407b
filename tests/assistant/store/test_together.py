"""Group commit: many threads, few transactions, and every failure its own."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assistant.errors import LedgerError
from assistant.store.append import Appender
from assistant.store.ledger import Ledger
from assistant.store.together import Together
from tests.assistant.store.factory import make_turn


class Counting(Appender):
    """An appender whose transactions are counted; `hold` keeps the first one open until several others wait."""

    begun = 0

    def transaction(self):  # type: ignore[no-untyped-def]
        self.begun += 1
        return super().transaction()


@pytest.fixture
def bare() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    return connection


def handed_in(together: Together, works: list, lock: threading.RLock) -> list[Exception | None]:  # type: ignore[type-arg]
    """Commit all `works` from threads that wait for the lock together; their errors."""
    errors: list[Exception | None] = [None] * len(works)

    def run(i: int) -> None:
        try:
            together.commit(works[i])
        except Exception as error:
            errors[i] = error

    with ThreadPoolExecutor(len(works)) as pool, lock:
        for i in range(len(works)):
            pool.submit(run, i)
        while len(together._waiting) < len(works):
            pass
    return errors


def insert(n: int, back: list[int] | None = None):  # type: ignore[no-untyped-def]
    def write(connection: sqlite3.Connection):  # type: ignore[no-untyped-def]
        connection.execute("INSERT INTO t VALUES (?)", (n,))
        return (lambda: back.append(n)) if back is not None else None

    return write


def test_what_waits_together_is_one_transaction(bare: sqlite3.Connection) -> None:
    lock, appender = threading.RLock(), Counting(bare)
    assert handed_in(Together(appender, lambda: lock), [insert(n) for n in range(8)], lock) == [None] * 8
    assert appender.begun == 1
    assert [n for (n,) in bare.execute("SELECT n FROM t ORDER BY n")] == list(range(8))


def test_a_failure_is_its_own(bare: sqlite3.Connection) -> None:
    lock, appender, back = threading.RLock(), Counting(bare), []  # type: threading.RLock, Counting, list[int]
    bare.execute("INSERT INTO t VALUES (3)")
    errors = handed_in(Together(appender, lambda: lock), [insert(n, back) for n in (1, 2, 3, 4)], lock)
    assert [type(error) for error in errors] == [type(None), type(None), sqlite3.IntegrityError, type(None)]
    assert [n for (n,) in bare.execute("SELECT n FROM t ORDER BY n")] == [1, 2, 3, 4]
    assert len(back) == len(set(back)) and set(back) <= {1, 2, 4}  # what the common attempt had changed was taken back, once


def test_a_commit_that_fails_takes_back_what_was_changed_beside_it(bare: sqlite3.Connection) -> None:
    bare.execute("PRAGMA foreign_keys = ON")
    bare.execute("CREATE TABLE child (n REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)")
    back: list[int] = []

    def write(connection: sqlite3.Connection):  # type: ignore[no-untyped-def]
        connection.execute("INSERT INTO child VALUES (99)")
        return lambda: back.append(99)

    with pytest.raises(sqlite3.IntegrityError):
        Together(Appender(bare), threading.RLock).commit(write)
    assert back == [99] and not bare.execute("SELECT * FROM child").fetchall()


def test_a_lock_that_cannot_be_had_leaves_no_work_behind(bare: sqlite3.Connection) -> None:
    def refused() -> threading.RLock:
        raise LedgerError("the log is closed: open it again")

    together = Together(Appender(bare), refused)
    with pytest.raises(LedgerError, match="closed"):
        together.commit(insert(1))
    assert not together._waiting


def test_many_turns_at_once_are_all_there_and_the_chain_holds(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        turns = [make_turn(conversation=f"{n:026d}") for n in range(60)]

        def whole(n: int) -> None:
            ledger.open_turn(turns[n])
            ledger.close_turn(turns[n])

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(whole, range(60)))
        kinds = dict(ledger.query("SELECT kind, count(*) FROM ledger GROUP BY kind"))
        assert (kinds["intent"], kinds["output"], kinds["session"]) == (60, 60, 1)
        assert [n for (n,) in ledger.query("SELECT seq FROM ledger ORDER BY seq")] == list(range(1, sum(kinds.values()) + 1))
        with pytest.raises(LedgerError, match="already in the log"):
            ledger.open_turn(turns[0])
