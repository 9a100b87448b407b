"""The whole log as JSON lines: a header, one line a record with its contents, and a footer. Complete and re-verifiable.

Every line is one JSON object: `{"header": …}`, then `{"seq", "record", "content"}` in order, then `{"footer": …}`.
`record` is the exact canonical text that was hashed, as a string. A content body is text where it is text, else base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from assistant.audit.verify import Progress, log_name
from assistant.store.ledger import Ledger
from assistant.store.merkle import Frontier, leaf_hash

FORMAT = "pellucid-ledger/1"
_PAGE = 200


def lines(ledger: Ledger, progress: Progress = lambda done, total: None) -> Iterator[str]:
    """The lines of the export, each with its line end. Records added meanwhile are left out."""
    size = ledger.query("SELECT coalesce(max(seq), 0) FROM ledger")[0][0]
    version = ledger.query("PRAGMA user_version")[0][0]
    yield _line({"header": {"format": FORMAT, "log": log_name(ledger), "size": size, "schema_version": version}})
    tree = Frontier()
    for first in range(1, size + 1, _PAGE):
        last = min(first + _PAGE - 1, size)
        contents: dict[int, dict[str, Any]] = {}
        for seq, part, codec, salt, body in ledger.query(
            "SELECT seq, part, codec, salt, body FROM content WHERE seq BETWEEN ? AND ? ORDER BY seq, part",
            (first, last),
        ):
            contents.setdefault(seq, {})[part] = {"codec": codec, "salt": salt.hex(), **_body(codec, body)}
        for seq, record in ledger.query(
            "SELECT seq, record FROM ledger WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last)
        ):
            tree.add(leaf_hash(record.encode()))
            yield _line({"seq": seq, "record": record, "content": contents.pop(seq, {})})
        progress(last, size)
    registry = [list(row) for row in ledger.query("SELECT id, kind, body FROM registry ORDER BY id")]
    yield _line({"footer": {"size": tree.size, "root": tree.root().hex(), "registry": registry}})


def _body(codec: str, body: bytes) -> dict[str, str]:
    if codec in ("text", "json"):
        try:
            return {"text": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"base64": base64.b64encode(body).decode()}


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
