"""The schema of the ledger, as numbered steps. A step that has been released is never edited; a new one is added below
it.

`ledger` is append-only and hashed; its query columns are GENERATED from the hashed record, so that no column can be
edited apart from it. `content` is erasable, and only where a `redact` record names the part. `conversation`, `counts`,
`frontier` and `fts` can be rebuilt from the other tables. Guarded tables are never rebuilt with `transform()`, which
would drop the triggers.
"""

from __future__ import annotations

import json
import sqlite3
from hashlib import sha256

from sqlite_utils import Database, Migrations

APPLICATION_ID = 0x50656C6C
"""`Pell`, in the header of every ledger."""

migrations = Migrations("pellucid")
_NOT_OURS = ("fts_", "sqlite_", "_sqlite_")
"""Tables that SQLite and sqlite-utils make for themselves, each version a little differently."""


@migrations(name="001_ledger")
def _ledger(db: Database) -> None:
    for statement in (
        """CREATE TABLE ledger (
  seq INTEGER PRIMARY KEY,
  record TEXT NOT NULL CHECK (json_valid(record)),
  leaf BLOB NOT NULL CHECK (length(leaf) = 32),
  link BLOB NOT NULL CHECK (length(link) = 32),
  kind TEXT AS (json_extract(record, '$.kind')),
  ts INTEGER AS (json_extract(record, '$.ts')),
  conv TEXT AS (json_extract(record, '$.conv')),
  turn TEXT AS (json_extract(record, '$.turn')),
  parent TEXT AS (json_extract(record, '$.parent')),
  verdict TEXT AS (json_extract(record, '$.verdict')),
  category TEXT AS (json_extract(record, '$.category')),
  model TEXT AS (json_extract(record, '$.model')),
  lang TEXT AS (json_extract(record, '$.lang')),
  finish TEXT AS (json_extract(record, '$.finish'))
) STRICT""",
        "CREATE INDEX ledger_kind ON ledger (kind, seq)",
        "CREATE INDEX ledger_turn ON ledger (turn) WHERE turn IS NOT NULL",
        "CREATE INDEX ledger_conv ON ledger (conv, seq) WHERE conv IS NOT NULL",
        "CREATE INDEX ledger_verdict ON ledger (verdict, seq) WHERE verdict IS NOT NULL",
        "CREATE INDEX ledger_category ON ledger (category, seq) WHERE category IS NOT NULL",
        """CREATE TABLE content (
  seq INTEGER NOT NULL REFERENCES ledger (seq),
  part TEXT NOT NULL,
  codec TEXT NOT NULL,
  salt BLOB NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (seq, part)
) STRICT, WITHOUT ROWID""",
        """CREATE TABLE erased (
  seq INTEGER NOT NULL REFERENCES ledger (seq),
  part TEXT NOT NULL,
  redaction INTEGER NOT NULL REFERENCES ledger (seq),
  PRIMARY KEY (seq, part)
) STRICT, WITHOUT ROWID""",
        "CREATE TABLE registry (id TEXT PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL) STRICT",
        """CREATE TABLE checkpoint (
  size INTEGER PRIMARY KEY,
  root BLOB NOT NULL,
  note TEXT NOT NULL,
  ts INTEGER NOT NULL
) STRICT""",
        """CREATE TABLE signature (
  size INTEGER NOT NULL REFERENCES checkpoint (size),
  method TEXT NOT NULL,
  signer TEXT NOT NULL,
  signature TEXT NOT NULL,
  PRIMARY KEY (size, method, signer)
) STRICT""",
        "CREATE TABLE process (id TEXT PRIMARY KEY, pid INTEGER NOT NULL, started TEXT NOT NULL) STRICT",
        """CREATE TABLE opened (
  turn TEXT PRIMARY KEY,
  seq INTEGER NOT NULL REFERENCES ledger (seq),
  process TEXT NOT NULL
) STRICT""",
        """CREATE TABLE journal (
  turn TEXT NOT NULL,
  step INTEGER NOT NULL,
  text TEXT NOT NULL,
  tokens BLOB NOT NULL,
  PRIMARY KEY (turn, step)
) STRICT, WITHOUT ROWID""",
        """CREATE TABLE conversation (
  id TEXT PRIMARY KEY,
  first_seq INTEGER NOT NULL,
  last_seq INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  turns INTEGER NOT NULL,
  flagged INTEGER NOT NULL,
  title_seq INTEGER
) STRICT""",
        "CREATE INDEX conversation_last ON conversation (last_seq)",
        """CREATE TABLE counts (
  day TEXT NOT NULL,
  verdict TEXT NOT NULL,
  category TEXT NOT NULL,
  lang TEXT NOT NULL,
  model TEXT NOT NULL,
  finish TEXT NOT NULL,
  turns INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  reply_tokens INTEGER NOT NULL,
  us INTEGER NOT NULL,
  uj INTEGER NOT NULL,
  PRIMARY KEY (day, verdict, category, lang, model, finish)
) STRICT, WITHOUT ROWID""",
        "CREATE TABLE frontier (size INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT",
        """CREATE VIRTUAL TABLE fts USING fts5(
  prompt, reply, content='', tokenize='unicode61 remove_diacritics 2'
)""",
        *_append_only("ledger"),
        *_append_only("erased"),
        *_append_only("registry"),
        *_append_only("checkpoint"),
        *_append_only("signature"),
        _guard("ledger_in_order", "INSERT ON ledger", "NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM ledger)",
               "the next record has the next number"),
        _guard("content_no_update", "UPDATE ON content", "1", "content is never edited"),
        _guard("content_no_delete", "DELETE ON content",
               "NOT EXISTS (SELECT 1 FROM erased WHERE seq = OLD.seq AND part = OLD.part)",
               "content is deleted only where a redact record names it"),
        _guard("content_vouched", "INSERT ON content",
               "(SELECT json_extract(record, '$.content.' || NEW.part) FROM ledger WHERE seq = NEW.seq) IS NULL"
               " OR EXISTS (SELECT 1 FROM content WHERE seq = NEW.seq AND part = NEW.part)"
               " OR EXISTS (SELECT 1 FROM erased WHERE seq = NEW.seq AND part = NEW.part)",
               "content belongs to a record that vouches for it"),
        _guard("erased_vouched", "INSERT ON erased",
               "(SELECT kind FROM ledger WHERE seq = NEW.redaction) IS NOT 'redact'"
               " OR EXISTS (SELECT 1 FROM erased WHERE seq = NEW.seq AND part = NEW.part)",
               "an erasure belongs to a redact record"),
        _guard("registry_once", "INSERT ON registry", "EXISTS (SELECT 1 FROM registry WHERE id = NEW.id)",
               "the registry is append-only"),
        _guard("checkpoint_once", "INSERT ON checkpoint", "EXISTS (SELECT 1 FROM checkpoint WHERE size = NEW.size)",
               "checkpoints are append-only"),
    ):  # fmt: skip
        db.execute(statement)


@migrations(name="002_views")
def _views(db: Database) -> None:
    """Views for people with a SQL prompt: what the tables mean, in words."""
    for statement in (
        """CREATE VIEW turns AS SELECT
  o.seq, o.turn, o.conv AS conversation, i.parent, datetime(o.ts / 1000000, 'unixepoch') AS ended,
  o.lang AS language, o.model, CAST(p.body AS TEXT) AS prompt, CAST(r.body AS TEXT) AS reply,
  o.finish, o.verdict, o.category,
  json_extract(o.record, '$.usage.prompt_tokens') AS prompt_tokens,
  json_extract(o.record, '$.usage.reply_tokens') AS reply_tokens
FROM ledger o JOIN ledger i ON i.turn = o.turn AND i.kind = 'intent'
LEFT JOIN content p ON p.seq = i.seq AND p.part = 'prompt'
LEFT JOIN content r ON r.seq = o.seq AND r.part = 'reply'
WHERE o.kind IN ('output', 'interrupted')""",
        """CREATE VIEW safety_events AS SELECT seq, turn, ended, verdict, category, prompt, reply FROM turns
WHERE verdict <> 'allow'""",
        """CREATE VIEW reviews AS SELECT
  seq, turn, datetime(ts / 1000000, 'unixepoch') AS reviewed, json_extract(record, '$.side') AS side,
  json_extract(record, '$.label') AS label, json_extract(record, '$.true_category') AS category
FROM ledger WHERE kind = 'review'""",
        """CREATE VIEW events AS SELECT
  seq, datetime(ts / 1000000, 'unixepoch') AS at, kind, conv AS conversation, turn, record
FROM ledger""",
    ):
        db.execute(statement)


def _append_only(table: str) -> tuple[str, str]:
    return (
        _guard(f"{table}_no_update", f"UPDATE ON {table}", "1", f"{table} is append-only"),
        _guard(f"{table}_no_delete", f"DELETE ON {table}", "1", f"{table} is append-only"),
    )


def _guard(name: str, event: str, when: str, message: str) -> str:
    return f"CREATE TRIGGER {name} BEFORE {event} WHEN {when} BEGIN SELECT RAISE(ABORT, '{message}'); END"


def newest_version() -> int:
    """The schema version this program writes."""
    return len(migrations._migrations)


def migrate(db: Database, upto: int | None = None) -> int:
    """Apply what is pending, inside the caller's transaction. Returns the version reached."""
    stop = None if upto is None else [m.name for m in migrations._migrations[upto:]]
    migrations.apply(db, stop_before=stop)
    version = len(migrations.applied(db))
    db.execute(f"PRAGMA user_version = {version}")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    return version


def describe(connection: sqlite3.Connection) -> dict[str, str]:
    """Every table, index, trigger and view with its SQL, by `type name`; what SQLite makes for itself is left out."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {f"{kind} {name}": sql for kind, name, table, sql in rows if not table.startswith(_NOT_OURS)}


def expected(version: int) -> dict[str, str]:
    """What `describe` must give for a ledger of that version."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(Database(connection, execute_plugins=False), version)
        return describe(connection)
    finally:
        connection.close()


def schema_text(schema: dict[str, str]) -> str:
    """One text for a schema, to be hashed and kept in the registry."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


def schema_id(schema: dict[str, str]) -> str:
    """The name of a schema: its hash."""
    return sha256(schema_text(schema).encode()).hexdigest()
