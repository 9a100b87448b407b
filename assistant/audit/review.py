"""People judging what the filters decided: a queue, labels with notes, and the labelled texts as training data.

A review judges one text, the prompt or the reply: `safe`, `unsafe`, or `unsure`. Whether the verdict was right follows
from that. Of several reviews of one text the last counts. Who reviewed and what they noted is erasable; the label is
not.
"""

from __future__ import annotations

import getpass
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal

from assistant.audit.remarks import note_of
from assistant.errors import UsageError
from assistant.store.canonical import unmicro
from assistant.store.ledger import Ledger, TurnRow
from assistant.store.listing import row_of
from assistant.turn import Turn
from safety.verdict import Action

Label = Literal["safe", "unsafe", "unsure"]
Side = Literal["prompt", "reply"]
Source = Literal[
    "flagged",  # the verdict was not simply allow, newest first
    "margin",  # nearest to the other verdict: allowed with the highest scores, flagged with the lowest
    "random",  # a sample of all, the same for the same seed
]

_MARKS: dict[str, Label] = {"right": "unsure", "wrong_block": "safe", "wrong_pass": "unsafe", "unsure": "unsure"}
"""`right` takes its meaning from the verdict."""
_UNREVIEWED = "NOT EXISTS (SELECT 1 FROM ledger r WHERE r.turn = ledger.turn AND r.kind = 'review')"
_CLOSED = "kind IN ('output', 'interrupted')"


@dataclass(frozen=True, slots=True)
class Review:
    """One judgement as it was logged."""

    seq: int
    turn: str
    side: Side
    label: Label
    category: str
    verdict: str
    """What the filter had decided about this text."""
    score: float
    ts: int
    note: str
    reviewer: str
    """Note and reviewer are empty once erased."""

    @property
    def was_flagged(self) -> bool:
        """Whether the filter had objected."""
        return self.verdict != "allow"


def queue(ledger: Ledger, source: Source, limit: int, seed: int = 0) -> list[TurnRow]:
    """The turns to be reviewed next: none that has been reviewed already."""
    if source == "flagged":
        where = f"verdict IN ('caution', 'redact', 'block') AND {_CLOSED} AND {_UNREVIEWED}"
        seqs = _seqs(ledger, f"SELECT seq FROM ledger WHERE {where} ORDER BY seq DESC LIMIT ?", limit)
    elif source == "margin":
        sql = "SELECT seq FROM ledger WHERE {} AND " + f"{_CLOSED} AND {_UNREVIEWED} ORDER BY record ->> '$.score' "
        high = _seqs(ledger, sql.format("verdict = 'allow'") + "DESC LIMIT ?", limit)
        low = _seqs(ledger, sql.format("verdict IN ('caution', 'redact', 'block')") + "ASC LIMIT ?", limit)
        seqs = [seq for seq in chain.from_iterable(zip_longest(high, low)) if seq is not None][:limit]
    else:
        everything = _seqs(ledger, f"SELECT seq FROM ledger WHERE {_CLOSED} AND {_UNREVIEWED} ORDER BY seq LIMIT ?", -1)
        seqs = random.Random(seed).sample(everything, min(limit, len(everything)))
    with ledger.exclusive() as connection:
        return [row_of(connection, seq, ledger.query("SELECT record FROM ledger WHERE seq = ?", (seq,))[0][0]) for seq in seqs]


def add_review(
    ledger: Ledger, turn_id: str, label: Label, *, side: Side | None = None, category: str = "", note: str = "",
    reviewer: str = "",
) -> int:  # fmt: skip
    """Log a judgement. Without `side`, the text that the more severe verdict is about. Returns the record number."""
    turn = ledger.turn(turn_id)
    side = side or _judged_side(turn)
    verdict = turn.prompt_verdict if side == "prompt" else turn.output_verdict
    if verdict is None:
        raise UsageError(f"the turn {turn.id} has no reply that could be reviewed: use --side prompt")
    fields: dict[str, Any] = {
        "turn": turn.id, "conv": turn.conversation, "side": side, "label": label, "judged": verdict.action.value,
        "score": round(verdict.score * 1_000_000),
    }  # fmt: skip
    if category:
        fields["true_category"] = category
    remarks = json.dumps({"note": note, "reviewer": reviewer}, ensure_ascii=False)
    return ledger.record_event("review", fields, content={"remarks": remarks})


def login_name() -> str:
    """Who judges when nobody is named: the login name, empty where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


def reviews(ledger: Ledger) -> list[Review]:
    """Every judgement that counts: the last one of each text, oldest first."""
    last: dict[tuple[str, str], Review] = {}
    for seq, text, codec, body in ledger.query(
        """SELECT l.seq, l.record, c.codec, c.body FROM ledger l
        LEFT JOIN content c ON c.seq = l.seq AND c.part = 'remarks' WHERE l.kind = 'review' ORDER BY l.seq"""
    ):
        record = json.loads(text)
        remarks = note_of(codec, body)
        if "side" not in record and record.get("label") in _MARKS and "turn" in record:
            record |= _mark(ledger, record)
        if {"turn", "side", "label"} <= record.keys():
            key = (record["turn"], record["side"])
            last.pop(key, None)
            last[key] = Review(
                seq, record["turn"], record["side"], record["label"], record.get("true_category", ""),
                record.get("judged", ""), unmicro(record.get("score", 0)), record["ts"],
                str(remarks.get("note", "")), str(remarks.get("reviewer", "")),
            )  # fmt: skip
    return list(last.values())


def training_rows(ledger: Ledger, only: Sequence[Review] | None = None) -> Iterator[dict[str, Any]]:
    """The labelled texts in the form the safety classifier is trained from; unsure and erased ones are left out."""
    for review in only if only is not None else reviews(ledger):
        if review.label == "unsure":
            continue
        turn = ledger.turn(review.turn)
        text = turn.prompt if review.side == "prompt" else reply_as_generated(turn)
        if not text:
            continue
        row: dict[str, Any] = {
            "id": f"review-{turn.id}-{review.side}",
            "text": text,
            "lang": turn.language,
            "label": review.label,
            "role": "prompt" if review.side == "prompt" else "response",
            "category": review.category,
            "kind": _kind(review),
            "set": "reviews",
            "source": "pellucid audit review",
            "verdict": review.verdict,
            "score": review.score,
        }
        if review.side == "reply":
            row["context"] = turn.prompt
        yield row


def _kind(review: Review) -> str:
    """What the classifier's training calls such a text: one that was wrongly flagged is a borderline case."""
    if review.label == "unsafe":
        return "harmful"
    return "borderline_safe" if review.was_flagged else "benign"


def reply_as_generated(turn: Turn) -> str:
    """What the model wrote, even where a refusal was shown instead; empty when it was erased."""
    if turn.finish == "blocked_output":
        return "".join(token.text for token in turn.tokens)
    return turn.reply


def _mark(ledger: Ledger, record: dict[str, Any]) -> dict[str, Any]:
    """A quick mark of the terminal application (is the verdict right?) as a judgement of the text."""
    turn = ledger.turn(record["turn"])
    side = _judged_side(turn)
    verdict = turn.prompt_verdict if side == "prompt" or turn.output_verdict is None else turn.output_verdict
    flagged: Label = "safe" if verdict.action is Action.ALLOW else "unsafe"
    label = flagged if record["label"] == "right" else _MARKS[record["label"]]
    return {"side": side, "label": label, "judged": verdict.action.value, "score": round(verdict.score * 1_000_000)}


def _judged_side(turn: Turn) -> Side:
    output = turn.output_verdict
    return "reply" if output and output.action.severity > turn.prompt_verdict.action.severity else "prompt"


def _seqs(ledger: Ledger, sql: str, limit: int) -> list[int]:
    return [seq for (seq,) in ledger.query(sql, (limit,))]
