"""Filling a new log quickly: what cannot be written is said by the call that follows, and nothing is left running."""

import contextlib
import sqlite3
import threading

import pytest

from assistant.store import bulk, canonical, migrations
from assistant.store.connection import as_database, connect


def rows(count):
    for seq in range(1, count + 1):
        record = {"v": 1, "seq": seq, "ts": seq, "kind": "title", "conv": "C", "content": {}}
        yield record, canonical.encode(record)


@pytest.fixture
def connection(tmp_path):
    with contextlib.closing(connect(tmp_path / "ledger.db", read_only=False)) as made:
        migrations.migrate(as_database(made))
        yield made


def test_what_was_added_is_there_after_a_flush(connection):
    with bulk.loading(connection), bulk.unguarded(connection), bulk.Loader(connection) as loader:
        for number, (record, text) in enumerate(rows(bulk._PAGE * 3 + 7), 1):
            loader.add(record, text)
            if number in (5, bulk._PAGE * 2, bulk._PAGE * 3 + 7):
                loader.flush()
                assert connection.execute("SELECT count(*), max(seq) FROM ledger").fetchone() == (number, number)
        loader.finish()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bulk")]


def test_a_failure_of_the_writer_reaches_the_caller(connection):
    with pytest.raises(sqlite3.OperationalError, match="no such table"), bulk.loading(connection), bulk.Loader(connection) as loader:
        connection.execute("ALTER TABLE ledger RENAME TO other")
        for record, text in rows(bulk._PAGE * (bulk._AHEAD + 2)):
            loader.add(record, text)
        loader.flush()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bulk")]


def test_a_caller_that_gives_up_leaves_no_thread_behind(connection):
    with pytest.raises(KeyboardInterrupt), bulk.Loader(connection) as loader:
        for record, text in rows(bulk._PAGE):
            loader.add(record, text)
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bulk")]
