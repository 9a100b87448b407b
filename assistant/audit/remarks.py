"""What people have done about one turn since it was answered: their judgements of it, and why its texts were erased."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from assistant.store import content
from assistant.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Remark:
    """One record about a turn."""

    kind: Literal["review", "redact"]
    ts: int
    """Microseconds since 1970."""
    label: str = ""
    """Of a review: safe, unsafe or unsure; right, wrong_block or wrong_pass in old logs."""
    side: str = ""
    """Of a review: prompt or reply; empty in old logs."""
    text: str = ""
    """The note of a review, empty once erased; the reason of an erasure."""
    who: str = ""


_REVIEWS = """SELECT l.record, c.codec, c.body FROM ledger l LEFT JOIN content c ON c.seq = l.seq AND c.part = 'remarks'
WHERE l.turn = ? AND l.kind = 'review' ORDER BY l.seq"""
_ERASURES = """SELECT record FROM ledger WHERE seq IN (SELECT e.redaction FROM erased e JOIN ledger l ON l.seq = e.seq WHERE l.turn = ?)
ORDER BY seq"""


def remarks(ledger: Ledger, turn: str) -> list[Remark]:
    """Everything remarked about the turn with this id: reviews, then erasures, oldest first. Raises LedgerError."""
    out: list[Remark] = []
    for text, codec, body in ledger.query(_REVIEWS, (turn,)):
        record, said = json.loads(text), note_of(codec, body)
        label, side = str(record.get("label", "")), str(record.get("side", ""))
        out.append(Remark("review", record["ts"], label, side, str(said.get("note", "")), str(said.get("reviewer", ""))))
    for (text,) in ledger.query(_ERASURES, (turn,)):
        record = json.loads(text)
        out.append(Remark("redact", record["ts"], text=str(record.get("reason", "")), who=str(record.get("actor", ""))))
    return out


def note_of(codec: str | None, body: bytes | None) -> dict[str, Any]:
    """Note and reviewer of a review; empty when they were erased or cannot be read."""
    if codec is None or body is None:
        return {}
    try:
        value = json.loads(content.decode(codec, body))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
