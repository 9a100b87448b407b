"""Everything an intruder with the database file in his hands could do to the log, and whether `verify` tells.

All but one is found; what a chain alone cannot find is found through the checkpoint kept outside the file. Not found,
and said so in the documentation: appending a record that is false in itself.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from assistant.audit.verify import verify
from assistant.store import canonical
from assistant.store.checkpoint import outside_file
from assistant.store.commitment import commit
from assistant.store.ledger import Ledger
from assistant.store.merkle import GENESIS, leaf_hash, link_hash
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import BLOCK

Attack = Callable[[sqlite3.Connection], object]


def without_triggers(c: sqlite3.Connection, attack: Attack) -> None:
    """Take the guards away, do it, put them back: the schema looks untouched."""
    triggers = c.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        c.execute(f"DROP TRIGGER {name}")
    attack(c)
    for _, sql in triggers:
        c.execute(sql)


def edit_record(c: sqlite3.Connection, seq: int, **changes: object) -> None:
    record = json.loads(c.execute("SELECT record FROM ledger WHERE seq = ?", (seq,)).fetchone()[0]) | changes
    c.execute("UPDATE ledger SET record = ? WHERE seq = ?", (canonical.encode(record), seq))


def rewrite_chain(c: sqlite3.Connection) -> None:
    previous = GENESIS
    for seq, record in c.execute("SELECT seq, record FROM ledger ORDER BY seq").fetchall():
        leaf = leaf_hash(record.encode())
        previous = link_hash(previous, leaf)
        c.execute("UPDATE ledger SET leaf = ?, link = ? WHERE seq = ?", (leaf, previous, seq))


def reply_text(c: sqlite3.Connection) -> None:
    c.execute("UPDATE content SET body = x'f0' WHERE seq = 10 AND part = 'reply'")


def reply_text_and_salt(c: sqlite3.Connection) -> None:
    c.execute("UPDATE content SET body = x'f0', salt = randomblob(32) WHERE seq = 10 AND part = 'reply'")


def swap_two_texts(c: sqlite3.Connection) -> None:
    c.execute("UPDATE content SET seq = -seq WHERE seq IN (10, 12)")
    c.execute("UPDATE content SET seq = CASE seq WHEN -10 THEN 12 ELSE 10 END WHERE seq < 0")


def coding_of_a_text(c: sqlite3.Connection) -> None:
    c.execute("UPDATE content SET codec = 'json' WHERE seq = 10 AND part = 'reply'")


def delete_a_text(c: sqlite3.Connection) -> None:
    c.execute("DELETE FROM content WHERE seq = 10 AND part = 'reply'")


def delete_a_text_and_pretend_an_erasure(c: sqlite3.Connection) -> None:
    c.execute("INSERT INTO erased VALUES (10, 'reply', 11)")
    delete_a_text(c)


def add_a_text(c: sqlite3.Connection) -> None:
    c.execute("INSERT INTO content VALUES (10, 'extra', 'text', randomblob(32), x'f0')")


def verdict_in_record(c: sqlite3.Connection) -> None:
    edit_record(c, 10, verdict="allow")


def record_and_leaf(c: sqlite3.Connection) -> None:
    verdict_in_record(c)
    text = c.execute("SELECT record FROM ledger WHERE seq = 10").fetchone()[0]
    c.execute("UPDATE ledger SET leaf = ? WHERE seq = 10", (leaf_hash(text.encode()),))


def record_and_whole_chain(c: sqlite3.Connection) -> None:
    verdict_in_record(c)
    rewrite_chain(c)
    c.execute("DELETE FROM frontier")


def everything_rewritten_with_checkpoints(c: sqlite3.Connection) -> None:
    record_and_whole_chain(c)
    c.execute("DELETE FROM checkpoint")


def cut_the_tail(c: sqlite3.Connection) -> None:
    for table in ("content", "ledger"):
        c.execute(f"DELETE FROM {table} WHERE seq > 16")
    c.execute("DELETE FROM checkpoint")
    c.execute("DELETE FROM frontier")


def drop_one_and_renumber(c: sqlite3.Connection) -> None:
    c.execute("DELETE FROM content WHERE seq IN (9, 10)")
    c.execute("DELETE FROM ledger WHERE seq IN (9, 10)")
    for (seq,) in c.execute("SELECT seq FROM ledger WHERE seq > 10 ORDER BY seq").fetchall():
        record = json.loads(c.execute("SELECT record FROM ledger WHERE seq = ?", (seq,)).fetchone()[0])
        record["seq"] = seq - 2
        for part, codec, salt, body in c.execute("SELECT part, codec, salt, body FROM content WHERE seq = ?", (seq,)).fetchall():
            record["content"][part] = commit(seq - 2, part, codec, salt, body).hex()
        c.execute("UPDATE ledger SET seq = ?, record = ? WHERE seq = ?", (seq - 2, canonical.encode(record), seq))
        c.execute("UPDATE content SET seq = ? WHERE seq = ?", (seq - 2, seq))
    rewrite_chain(c)
    c.execute("DELETE FROM checkpoint")
    c.execute("DELETE FROM frontier")


def drop_one(c: sqlite3.Connection) -> None:
    c.execute("DELETE FROM content WHERE seq = 10")
    c.execute("DELETE FROM ledger WHERE seq = 10")


def swap_two_records(c: sqlite3.Connection) -> None:
    c.execute("UPDATE ledger SET seq = -1 WHERE seq = 10")
    c.execute("UPDATE ledger SET seq = 10 WHERE seq = 12")
    c.execute("UPDATE ledger SET seq = 12 WHERE seq = -1")


def kept_checkpoint(c: sqlite3.Connection) -> None:
    c.execute("UPDATE checkpoint SET root = zeroblob(32)")


def kept_tree(c: sqlite3.Connection) -> None:
    c.execute("UPDATE frontier SET hashes = zeroblob(length(hashes))")


def registry(c: sqlite3.Connection) -> None:
    c.execute("UPDATE registry SET body = replace(body, 'append-only', 'append only')")


GUARDED: list[Attack] = [
    reply_text, reply_text_and_salt, swap_two_texts, coding_of_a_text, delete_a_text,
    delete_a_text_and_pretend_an_erasure, add_a_text, verdict_in_record, record_and_leaf, record_and_whole_chain,
    drop_one, swap_two_records, kept_checkpoint, kept_tree, registry,
]  # fmt: skip
"""Found by the log alone."""

OUTSIDE: list[Attack] = [everything_rewritten_with_checkpoints, cut_the_tail, drop_one_and_renumber]
"""Found only with the checkpoint outside."""


def drop_a_trigger(c: sqlite3.Connection) -> None:
    c.execute("DROP TRIGGER ledger_no_update")


def soften_the_triggers(c: sqlite3.Connection) -> None:
    c.execute("PRAGMA writable_schema = ON")
    c.execute("UPDATE sqlite_master SET sql = replace(sql, ' WHEN ', ' WHEN 0 AND ') WHERE type = 'trigger'")
    c.execute("PRAGMA writable_schema = OFF")


def add_a_trigger(c: sqlite3.Connection) -> None:
    c.execute("CREATE TRIGGER spy AFTER INSERT ON ledger BEGIN DELETE FROM counts; END")


def plain_columns(c: sqlite3.Connection) -> None:
    """Make a query column editable apart from the record."""
    c.execute("PRAGMA writable_schema = ON")
    c.execute("""UPDATE sqlite_master SET sql =
      replace(sql, 'verdict TEXT AS (json_extract(record, ''$.verdict''))', 'verdict TEXT AS (''allow'')')
      WHERE name = 'ledger'""")
    c.execute("PRAGMA writable_schema = OFF")


SCHEMA: list[Attack] = [drop_a_trigger, soften_the_triggers, add_a_trigger, plain_columns]


@pytest.fixture
def log(path: Path) -> Path:
    with Ledger.open(path) as ledger:
        for _ in range(3):
            log_turn(ledger)
        log_turn(ledger, prompt_verdict=BLOCK)
        for _ in range(6):
            log_turn(ledger)
        assert ledger.query("SELECT kind, verdict FROM ledger WHERE seq = 10") == [("output", "block")]
    return path


def outcome(path: Path, *, outside: bool) -> str:
    with Ledger.open(path, read_only=True) as ledger:
        return verify(ledger, outside=outside).outcome


def attack_file(path: Path, attack: Attack) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    attack(connection)
    connection.close()


def test_the_log_is_sound_before(log: Path) -> None:
    assert outcome(log, outside=True) == outcome(log, outside=False) == "ok"


@pytest.mark.parametrize("attack", GUARDED, ids=lambda a: a.__name__)
def test_found_by_the_log_itself(log: Path, attack: Attack) -> None:
    attack_file(log, lambda c: without_triggers(c, attack))
    assert outcome(log, outside=False) == "tampered"


@pytest.mark.parametrize("attack", GUARDED, ids=lambda a: a.__name__)
def test_the_guards_stop_it_in_the_first_place(log: Path, attack: Attack) -> None:
    if attack in (kept_tree,):
        pytest.skip("the tree is a copy that is rebuilt: not guarded, but compared")
    with pytest.raises(sqlite3.IntegrityError):
        attack_file(log, attack)


@pytest.mark.parametrize("attack", OUTSIDE, ids=lambda a: a.__name__)
def test_found_with_the_checkpoint_outside(log: Path, attack: Attack) -> None:
    attack_file(log, lambda c: without_triggers(c, attack))
    assert outcome(log, outside=True) == "tampered"


@pytest.mark.parametrize("attack", SCHEMA, ids=lambda a: a.__name__)
def test_found_in_the_schema(log: Path, attack: Attack) -> None:
    attack_file(log, attack)
    assert outcome(log, outside=False) == "tampered"


def test_another_log_in_its_place(log: Path) -> None:
    log.unlink()
    with Ledger.open(log) as ledger:
        log_turn(ledger)
    assert outcome(log, outside=True) == "findings"
    assert outcome(log, outside=False) == "ok"


def test_a_table_that_only_repeats_is_a_finding(log: Path) -> None:
    for statement in (
        "UPDATE counts SET turns = turns + 1",
        "DELETE FROM conversation WHERE rowid = 1",
        "INSERT INTO fts (fts) VALUES ('delete-all')",
        "CREATE TABLE notes (text)",
    ):
        attack_file(log, lambda c, s=statement: c.execute(s))
        assert outcome(log, outside=True) == "findings"


def test_a_forged_checkpoint_outside(log: Path) -> None:
    (file,) = outside_file("x").parent.glob("*.jsonl")
    file.write_text("garbage\n")
    assert outcome(log, outside=True) == "findings"


def test_where_it_broke_is_told_once(log: Path) -> None:
    attack_file(log, lambda c: without_triggers(c, verdict_in_record))
    with Ledger.open(log, read_only=True) as ledger:
        report = verify(ledger)
    found = {(p.where, p.seq) for p in report.problems if p.tampered and p.where != "checkpoint"}
    assert found == {("record", 10), ("tree", 22)}


def test_a_forged_append_is_not_found(log: Path) -> None:
    """The limit of what hashes can do: a lie that was written in good order."""
    with Ledger.open(log) as ledger:
        log_turn(ledger, prompt="this was never said")
    assert outcome(log, outside=True) == "ok"
    assert os.path.exists(log)
