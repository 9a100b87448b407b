"""The whole log as JSON lines: a header, one line a record with its contents, and a footer. Complete and re-verifiable.

Every line is one JSON object: `{"header": …}`, then `{"seq", "record", "content"}` in order, then `{"footer": …}`.
`record` is the exact canonical text that was hashed, as a string; a content body is text where it is text, else base64.
Beside a file goes a verifier of one file that needs nothing but Python.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assistant.audit.plain import json_text
from assistant.audit.verify import Progress, log_name
from assistant.store import tree
from assistant.store.checkpoint import Checkpoint
from assistant.store.ledger import Ledger
from assistant.store.merkle import Frontier, leaf_hash

FORMAT = "pellucid-ledger/1"
_PAGE = 200


def lines(ledger: Ledger, progress: Progress = lambda done, total: None) -> Iterator[str]:
    """The lines of the export, each with its line end. Records added meanwhile are left out."""
    with ledger.exclusive() as connection:
        size = tree.head(connection).size
        root = tree.frontier(connection, size).root()
    log, version = log_name(ledger), ledger.query("PRAGMA user_version")[0][0]
    note = Checkpoint(log, size, root).note
    yield _line({"header": {"format": FORMAT, "log": log, "size": size, "note": note, "schema_version": version}})
    walked = Frontier()
    for first in range(1, size + 1, _PAGE):
        last = min(first + _PAGE - 1, size)
        contents: dict[int, dict[str, Any]] = {}
        for seq, part, codec, salt, body in ledger.query(
            "SELECT seq, part, codec, salt, body FROM content WHERE seq BETWEEN ? AND ? ORDER BY seq, part",
            (first, last),
        ):
            contents.setdefault(seq, {})[part] = {"codec": codec, "salt": salt.hex(), **_body(codec, body)}
        for seq, record in ledger.query("SELECT seq, record FROM ledger WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last)):
            walked.add(leaf_hash(record.encode()))
            yield _line({"seq": seq, "record": record, "content": contents.pop(seq, {})})
        progress(last, size)
    registry = [list(row) for row in ledger.query("SELECT id, kind, body FROM registry ORDER BY id")]
    checkpoints = [
        {"note": note, "ts": ts, "signatures": [
            dict(zip(("method", "signer", "text"), row, strict=True))
            for row in ledger.query("SELECT method, signer, signature FROM signature WHERE size = ?", (at,))
        ]}
        for at, note, ts in ledger.query("SELECT size, note, ts FROM checkpoint WHERE size <= ? ORDER BY size", (size,))
    ]  # fmt: skip
    footer = {
        "size": walked.size,
        "root": walked.root().hex(),
        "note": Checkpoint(log, walked.size, walked.root()).note,
    }
    yield _line({"footer": {**footer, "registry": registry, "checkpoints": checkpoints}})


def verifier_source() -> str:
    """The text of the verifier that is put beside an export."""
    return Path(__file__).with_name("standalone.py").read_text("utf-8")


def _body(codec: str, body: bytes) -> dict[str, str]:
    if codec in ("text", "json"):
        try:
            return {"text": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"base64": base64.b64encode(body).decode()}


def _line(value: dict[str, Any]) -> str:
    return json_text(value) + "\n"
