"""A copy for Datasette and other SQL tools: plain tables of turns and reviews, full-text search, and a metadata file.

The copy is a database of its own, without hashes and guards; the log itself is never handed out.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from assistant.audit.export.rows import COLUMNS, flat, turns
from assistant.audit.export.target import ExportError, remove
from assistant.audit.review import Review, reviews
from assistant.audit.verify import log_name
from assistant.store import segment
from assistant.store.ledger import Filter, Ledger

_BATCH = 500
_REVIEW: dict[str, type] = {
    "seq": int, "turn": str, "side": str, "label": str, "category": str, "verdict": str, "score": float, "ts": int,
    "note": str, "reviewer": str,
}  # fmt: skip
_CONVERSATIONS = """SELECT conversation, count(*) AS turns, min(created) AS begun, max(created) AS updated,
sum(verdict <> 'allow') AS flagged FROM turns GROUP BY conversation"""

SEARCH = """WITH RECURSIVE spaced (at, phrase) AS (
  SELECT 1, ''
  UNION ALL SELECT at + 1, phrase || CASE
    WHEN substr(:text, at, 1) = '"' THEN ' '
    WHEN unicode(substr(:text, at, 1)) >= 11904 THEN ' ' || substr(:text, at, 1) || ' '
    ELSE substr(:text, at, 1) END
  FROM spaced WHERE at <= length(:text)
)
SELECT turns.* FROM turns_fts JOIN turns ON turns.rowid = turns_fts.rowid
WHERE turns_fts MATCH '{prompt reply} : "' || (SELECT phrase FROM spaced ORDER BY at DESC LIMIT 1) || '"'
ORDER BY turns.rowid DESC"""
"""The query `search` of the copy, for any SQL tool: `text` is a phrase; each Chinese character becomes a word of its own."""


_DESCRIPTION = (
    "A copy made by `pellucid audit export --format datasette`; verify the log, not this copy. The search box of the table finds English "
    "words and up to four Chinese characters in a row; the query `search` finds Chinese of any length."
)


def write(ledger: Ledger, path: Path, which: Filter) -> int:
    """Write the copy to `path`, and its metadata beside it. Returns the number of turns. Raises ExportError."""
    if path.exists():
        raise ExportError(f"{path} exists already: remove it, or choose another place with -o")
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        database = Database(sqlite3.connect(draft), execute_plugins=False)
        try:
            count = _fill(database, ledger, which)
        finally:
            database.close()
        metadata = path.with_suffix(".metadata.yaml")
        os.close(os.open(metadata, os.O_CREAT | os.O_WRONLY, 0o600))
        metadata.write_text(_metadata(path.stem, log_name(ledger)), "utf-8")
        os.replace(draft, path)
    except (OSError, sqlite3.Error) as error:
        raise ExportError(f"{path} could not be written ({error}): free some space or use another place") from error
    finally:
        remove(draft)
    return count


def _fill(database: Database, ledger: Ledger, which: Filter) -> int:
    table: Any = database["turns"]
    table.create(COLUMNS, pk="turn")
    rows = (flat(turn) for turn, _ in turns(ledger, which))
    while some := list(islice(rows, _BATCH)):
        table.insert_all(some, replace=True)
    _index(database)
    for column in ("conversation", "verdict", "created"):
        table.create_index([column])
    judged: Any = database["reviews"]
    judged.create(_REVIEW, pk="seq")
    judged.insert_all([_review(review) for review in reviews(ledger)])
    database.create_view("conversations", _CONVERSATIONS)
    return int(table.count)


def _index(database: Database) -> None:
    """Full-text search in which Chinese of any length is found: characters stand alone, and short runs of them as one word each."""
    database.execute("CREATE VIRTUAL TABLE turns_fts USING fts5(prompt, reply, runs, content='', tokenize='unicode61 remove_diacritics 2')")
    last = 0
    while rows := database.execute(
        "SELECT rowid, prompt, reply FROM turns WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, _BATCH)
    ).fetchall():
        last = rows[-1][0]
        words = [(id_, segment.for_index(asked), segment.for_index(answered), _runs(asked, answered)) for id_, asked, answered in rows]
        database.conn.executemany("INSERT INTO turns_fts (rowid, prompt, reply, runs) VALUES (?, ?, ?, ?)", words)
    database.conn.commit()


def _runs(*texts: str) -> str:
    """Every two to four Chinese characters in a row: Datasette's search box asks for a Chinese word as one word."""
    runs = [run for text in texts for run in segment.chinese_runs(text)]
    return " ".join(dict.fromkeys(run[i : i + n] for run in runs for n in (2, 3, 4) for i in range(len(run) - n + 1)))


def _review(review: Review) -> dict[str, Any]:
    return {name: value for name, value in asdict(review).items() if name in _REVIEW}


def _metadata(name: str, log: str) -> str:
    """Datasette's metadata as YAML; every value is quoted as JSON, which YAML takes."""
    facets = json.dumps(["verdict", "language", "model", "finish", "prompt_category"])
    return (
        f"title: {json.dumps(f'Turns of the log {log}')}\n"
        f"description: {json.dumps(_DESCRIPTION)}\n"
        f"databases:\n  {json.dumps(name)}:\n    tables:\n      turns:\n        facets: {facets}\n"
        "        sort_desc: created\n        fts_table: turns_fts\n        fts_pk: rowid\n"
        "      reviews:\n        sort_desc: seq\n"
        "    queries:\n      search:\n        title: Search prompts and replies, Chinese or English, as one phrase of any length\n"
        f"        sql: {json.dumps(SEARCH)}\n"
    )
