"""Does the guard mark the words that people marked? Character F1 as in SemEval-2021 task 5 (Toxic Spans), and AUPRC over characters."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety.guard import Guard

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


def read(path: Path) -> list[Row]:
    """JSONL (also .gz) with `text` and `rationale` [[start, end), …]; lines without such spans are left out.

    Raises ValueError naming a broken line.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            spans = entry.get("rationale", [])
            if spans and all(len(s) == 2 for s in spans):
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


def character_weights(guard: Guard, text: str) -> list[float]:
    """The weight of each character: that of the word it belongs to."""
    weights = [0.0] * len(text)
    for word in guard.explain(text, "response"):
        for i in range(word["start"], min(word["end"], len(text))):
            weights[i] = word["weight"]
    return weights


def marked(weights: Sequence[float], share: float, floor: float) -> frozenset[int]:
    """Characters whose weight reaches `share` of the largest, and `floor`."""
    least = max(share * max(weights, default=0.0), floor, 1e-9)
    return frozenset(i for i, weight in enumerate(weights) if weight >= least)


def f1(gold: frozenset[int], found: frozenset[int]) -> float:
    """Of characters; two empty sets agree (1), one empty set does not (0)."""
    if not gold or not found:
        return float(gold == found)
    return 2 * len(gold & found) / (len(gold) + len(found))


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
