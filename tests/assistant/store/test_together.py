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
from assistant.store.together import Together, Work
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


class Taken(Appender):
    """An appender that can begin no transaction: another program writes all the time."""

    begun = 0

    def transaction(self):  # type: ignore[no-untyped-def]
        self.begun += 1
        raise sqlite3.OperationalError("database is locked")


def test_a_log_that_is_locked_is_waited_for_once(bare: sqlite3.Connection) -> None:
    lock, appender = threading.RLock(), Taken(bare)
    errors = handed_in(Together(appender, lambda: lock), [insert(n) for n in range(8)], lock)
    assert [str(error) for error in errors] == ["database is locked"] * 8 and appender.begun == 1


def test_an_interrupt_leaves_the_others_their_work(bare: sqlite3.Connection) -> None:
    lock, appender = threading.RLock(), Counting(bare)
    together, left = Together(appender, lambda: lock), [True]

    def interrupted(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (99)")
        if left:
            left.clear()
            raise KeyboardInterrupt

    other = Work(insert(1))
    together._waiting.append(other)
    with pytest.raises(KeyboardInterrupt):
        together.commit(interrupted)
    assert not other.done and together._waiting == [other] and not bare.in_transaction
    together.commit(insert(2))
    assert other.done and other.error is None
    assert [n for (n,) in bare.execute("SELECT n FROM t ORDER BY n")] == [1, 2]


def test_work_that_an_interrupt_lost_from_the_queue_is_done_all_the_same(bare: sqlite3.Connection) -> None:
    together = Together(Counting(bare), threading.RLock)

    class Losing(list):  # type: ignore[type-arg]
        def append(self, work: Work) -> None:
            pass

    together._waiting = Losing()
    together.commit(insert(7))
    assert [n for (n,) in bare.execute("SELECT n FROM t")] == [7]


def test_done_work_is_no_failure_when_the_lock_is_refused_afterwards(bare: sqlite3.Connection) -> None:
    def closed() -> threading.RLock:
        together._write_all(together._waiting[0])  # another thread was faster, and closed the log
        raise LedgerError("the log is closed: open it again")

    together = Together(Appender(bare), closed)
    together.commit(insert(1))
    assert bare.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_an_outcome_that_two_threads_write_is_there_once(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        for finish in ("stop", "interrupted"):
            turn = make_turn(conversation=finish, finish=finish)
            ledger.open_turn(turn)
            ledger._unwritten[turn.id] = turn  # as if its first writing had failed
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ledger._write_outcome, [turn] * 4))
            assert ledger.query("SELECT count(*) FROM ledger WHERE turn = ? AND kind IN ('output', 'interrupted')", (turn.id,)) == [(1,)]
        assert ledger.query("SELECT sum(turns) FROM counts") == [(2,)]


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
