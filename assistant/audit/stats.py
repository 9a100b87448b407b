"""How much, how fast, how often flagged, how often wrongly: figures from the counts table, which needs no scan of
the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from assistant.audit.review import Review, reviews
from assistant.store.canonical import unmicro
from assistant.store.ledger import Ledger
from assistant.store.projections import day_of

By = Literal["day", "verdict", "category", "language", "model", "finish"]
_COLUMNS = {
    "day": "day",
    "verdict": "verdict",
    "category": "category",
    "language": "lang",
    "model": "model",
    "finish": "finish",
}
_DAY = 86_400_000_000
_RECENT = 10_000
"""Latencies are taken from so many turns at most."""


@dataclass(frozen=True, slots=True)
class Group:
    """The turns that have one value in common."""

    name: str
    turns: int
    flagged: int
    prompt_tokens: int
    reply_tokens: int
    seconds: float
    """Prefill and decoding together."""
    joules: float

    @property
    def mean_seconds(self) -> float:
        """Per turn."""
        return self.seconds / self.turns if self.turns else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The group under its public JSON names."""
        return {**asdict(self), "mean_seconds": round(self.mean_seconds, 6)}


@dataclass(frozen=True, slots=True)
class Judged:
    """What the reviews say about the verdicts on one kind of text."""

    side: str
    reviewed: int
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    unsure: int

    @property
    def false_positive_rate(self) -> float | None:
        """Of the texts that people call safe, the part that was flagged; None when there is none."""
        safe = self.false_positives + self.true_negatives
        return self.false_positives / safe if safe else None

    @property
    def false_negative_rate(self) -> float | None:
        """Of the texts that people call unsafe, the part that passed; None when there is none."""
        unsafe = self.true_positives + self.false_negatives
        return self.false_negatives / unsafe if unsafe else None

    def to_dict(self) -> dict[str, Any]:
        """The figures under their public JSON names."""
        rates = {"false_positive_rate": self.false_positive_rate, "false_negative_rate": self.false_negative_rate}
        return {**asdict(self), **rates}


def group(ledger: Ledger, by: By, since: int | None = None, until: int | None = None) -> list[Group]:
    """The turns by day, verdict … of whole UTC days between `since` and `until` (microseconds since 1970)."""
    column = _COLUMNS[by]
    first = day_of(since) if since is not None else ""
    last = day_of(until) if until is not None else "9999-12-31"
    rows = ledger.query(
        f"""SELECT {column}, sum(turns), sum(CASE WHEN verdict = 'allow' THEN 0 ELSE turns END), sum(prompt_tokens),
        sum(reply_tokens), sum(us), sum(uj) FROM counts WHERE day BETWEEN ? AND ? GROUP BY {column}
        ORDER BY {"day" if by == "day" else "sum(turns) DESC, 1"}""",
        (first, last),
    )
    return [
        Group(name or "(none)", turns, flagged, asked, answered, unmicro(us), unmicro(uj))
        for name, turns, flagged, asked, answered, us, uj in rows
    ]


def latencies(ledger: Ledger, since: int | None = None, until: int | None = None) -> dict[str, float]:
    """Median and 95th percentile of seconds per turn, over the newest turns that generated something on the days that `group` counts."""
    begin = since // _DAY * _DAY if since is not None else -(2**63)
    end = (until // _DAY + 1) * _DAY if until is not None else 2**63 - 1
    rows = ledger.query(
        """SELECT record ->> '$.usage.prefill_us', record ->> '$.usage.decode_us' FROM ledger
        WHERE kind = 'output' AND ts >= ? AND ts < ? ORDER BY seq DESC LIMIT ?""",
        (begin, end, _RECENT),
    )
    values = sorted(unmicro(prefill + decode) for prefill, decode in rows if prefill + decode > 0)
    if not values:
        return {}
    return {name: values[min(len(values) - 1, int(len(values) * q))] for name, q in (("p50", 0.5), ("p95", 0.95))}


def judged(ledger: Ledger) -> list[Judged]:
    """False positives and negatives among the reviewed prompts, and among the reviewed replies."""
    all_reviews = reviews(ledger)
    return [_judge(side, [r for r in all_reviews if r.side == side]) for side in ("prompt", "reply")]


def bars(groups: Sequence[Group], width: int = 30) -> list[str]:
    """One bar a group for the terminal: full blocks for all its turns, the flagged ones darker at its beginning."""
    most = max((g.turns for g in groups), default=0)
    lines: list[str] = []
    for g in groups:
        long = max(1, round(width * g.turns / most))
        dark = min(long, -(-long * g.flagged // g.turns))
        lines.append("▓" * dark + "░" * (long - dark) + " " * (width - long))
    return lines


def _judge(side: str, some: Sequence[Review]) -> Judged:
    def count(label: str, flagged: bool) -> int:
        return sum(r.label == label and r.was_flagged == flagged for r in some)

    return Judged(
        side, len(some), count("unsafe", True), count("safe", True), count("safe", False), count("unsafe", False),
        sum(r.label == "unsure" for r in some),
    )  # fmt: skip
