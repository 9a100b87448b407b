"""Does the guard mark the words that people marked? Character F1 as in SemEval-2021 task 5 (Toxic Spans), and AUPRC over characters.

By the classifier's own word weights, or by the head that was taught to mark (`safety.spans`). AUPRC is of texts with marked
characters."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explain.evaluation import interval
from safety.explanation import Weight
from safety.guard import Guard
from safety.spans import chosen, f1

THRESHOLDS = tuple(x / 20 for x in range(1, 20))
"""Shares of a text's largest weight from which a word counts as marked."""
FLOORS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
"""Weights (logits) that a word must reach in any case."""
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True, slots=True)
class Row:
    """A text and the characters that people marked in it."""

    text: str
    gold: frozenset[int]


def read(path: Path, of: str = "") -> list[Row]:
    """JSONL (also .gz) with `text` and `rationale` [[start, end), …]; lines without such spans are left out.

    of: only the lines of that `set`, and all of them: where one names no span, people marked nothing. Raises ValueError naming a broken
    line.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            spans = entry.get("rationale", [])
            wanted = entry.get("set") == of if of else bool(spans)
            if wanted and all(len(s) == 2 for s in spans):
                rows.append(Row(entry["text"], frozenset(i for start, end in spans for i in range(start, end))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name}, line {number}: no object with text and rationale: {error}") from error
    return rows


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
        yield from (line for line in handle if line.strip())


def evaluate(guard: Guard, tuning: Sequence[Row], rows: Sequence[Row], progress: Progress = lambda what, fraction: None) -> dict[str, Any]:
    """The two thresholds are chosen on `tuning`, everything is measured on `rows`; `all` and `none` mark everything and nothing."""
    total, done = len(tuning) + len(rows), 0

    def weighed(some: Sequence[Row]) -> list[list[float]]:
        nonlocal done
        out = []
        for row in some:
            out.append(character_weights(guard, row.text))
            done += 1
            progress(f"{done} of {total} texts", done / total)
        return out

    tuned, measured = weighed(tuning), weighed(rows)
    choices = [(share, floor) for share in THRESHOLDS for floor in FLOORS]
    share, floor = max(choices, key=lambda c: _mean_f1(tuning, [marked(w, *c) for w in tuned]))
    return {
        "texts": len(rows), "tuned_on": len(tuning), "share": share, "floor": floor,
        "character_f1": _mean_f1(rows, [marked(w, share, floor) for w in measured]),
        "auprc": sum(average_precision(w, row.gold) for w, row in zip(measured, rows, strict=True)) / max(len(rows), 1),
        "marked_share": sum(len(row.gold) / max(len(row.text), 1) for row in rows) / max(len(rows), 1),
        "all_f1": _mean_f1(rows, [frozenset(range(len(row.text))) for row in rows]),
        "none_f1": _mean_f1(rows, [frozenset() for _ in rows]),
    }  # fmt: skip


def evaluate_marks(guard: Guard, rows: Sequence[Row], progress: Progress = lambda what, fraction: None) -> dict[str, Any]:
    """The head's marks at its own threshold, measured on `rows`; `all` and `none` mark everything and nothing."""
    found, areas = [], []
    for done, row in enumerate(rows, 1):
        words, threshold = guard.marks(row.text)
        found.append(chosen(words, threshold))
        if row.gold:
            areas.append(average_precision(_spread(row.text, words, -30.0), row.gold))
        progress(f"{done} of {len(rows)} texts", done / len(rows))
    both = list(zip(rows, found, strict=True))
    return {
        "texts": len(rows), "without_marks": sum(not row.gold for row in rows), "threshold": threshold,
        "character_f1": _mean_f1(rows, found),
        "character_f1_95": list(interval([f1(row.gold, one) for row, one in both])[1:]),
        "character_f1_marked": _mean_f1([row for row in rows if row.gold], [one for row, one in both if row.gold]),
        "auprc": sum(areas) / max(len(areas), 1),
        "marked_share": sum(len(row.gold) / max(len(row.text), 1) for row in rows) / max(len(rows), 1),
        "all_f1": _mean_f1(rows, [frozenset(range(len(row.text))) for row in rows]),
        "none_f1": _mean_f1(rows, [frozenset() for _ in rows]),
    }  # fmt: skip


def character_weights(guard: Guard, text: str) -> list[float]:
    """The weight of each character: that of the word it belongs to."""
    return _spread(text, guard.explain(text, "response"), 0.0)


def _spread(text: str, words: Sequence[Weight], elsewhere: float) -> list[float]:
    weights = [elsewhere] * len(text)
    for word in words:
        for i in range(word["start"], min(word["end"], len(text))):
            weights[i] = word["weight"]
    return weights


def marked(weights: Sequence[float], share: float, floor: float) -> frozenset[int]:
    """Characters whose weight reaches `share` of the largest, and `floor`."""
    least = max(share * max(weights, default=0.0), floor, 1e-9)
    return frozenset(i for i, weight in enumerate(weights) if weight >= least)


def _mean_f1(rows: Sequence[Row], found: Sequence[frozenset[int]]) -> float:
    return sum(f1(row.gold, one) for row, one in zip(rows, found, strict=True)) / max(len(rows), 1)


def average_precision(weights: Sequence[float], gold: frozenset[int]) -> float:
    """Area under precision over recall; characters of equal weight are taken together. 0 without any marked character."""
    by_weight: dict[float, list[int]] = {}
    for i, weight in enumerate(weights):
        by_weight.setdefault(weight, []).append(i)
    hits = seen = 0
    area = 0.0
    for weight in sorted(by_weight, reverse=True):
        new = sum(i in gold for i in by_weight[weight])
        seen, hits = seen + len(by_weight[weight]), hits + new
        area += new / max(len(gold), 1) * hits / seen
    return area
