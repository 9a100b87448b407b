"""Which words of a flagged text decide? Those that alone would flip the verdict, those that suffice, and the smallest edit that flips it.

The edit is a recipe for evasion: show it to auditors only. Sufficient subsets follow Carter et al. 2019 (arXiv:1810.03805); an edit is
1-minimal when putting any of its words back restores the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

Removed = frozenset[int]
Margin = Callable[[Sequence[Removed]], Sequence[float]]
"""Sets of removed words → by how much each edited text still exceeds the threshold; at most 0: no longer flagged."""
PAIRS_AMONG = 20
MOST_EDITS = 8


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What holds the verdict up. Word numbers throughout."""

    necessary: tuple[int, ...]
    """Removing any one of these alone flips the verdict."""
    sufficient: tuple[int, ...]
    """These alone keep it; none of them can be spared."""
    flip: tuple[int, ...] | None
    """The smallest set found whose removal flips it; None: no flip within MOST_EDITS words."""
    margin_before: float
    margin_after: float | None
    evaluations: int
    """Texts that were judged."""


def search(count: int, margin: Margin, most_edits: int = MOST_EDITS) -> Counterfactual:
    """Raises ValueError when the text is not flagged, or has no words."""
    judged = 0

    def judge(sets: Sequence[Removed]) -> list[float]:
        nonlocal judged
        judged += len(sets)
        return list(margin(sets))

    if not count:
        raise ValueError("there are no words to leave out")
    before = judge([frozenset()])[0]
    if before <= 0:
        raise ValueError("the text is not flagged: there is no verdict to flip")
    alone = judge([frozenset({i}) for i in range(count)])
    flip = _flip(alone, judge, most_edits)
    return Counterfactual(
        necessary=tuple(i for i, m in enumerate(alone) if m <= 0),
        sufficient=_sufficient(count, alone, judge),
        flip=None if flip is None else tuple(sorted(flip)),
        margin_before=before,
        margin_after=None if flip is None else judge([flip])[0],
        evaluations=judged,
    )


def _flip(alone: Sequence[float], judge: Callable[[Sequence[Removed]], list[float]], most: int) -> Removed | None:
    """Exact for one and two words (among the most effective), greedy and then pruned for more."""
    order = sorted(range(len(alone)), key=lambda i: alone[i])
    if alone[order[0]] <= 0:
        return frozenset({order[0]})
    pairs = [frozenset(pair) for pair in combinations(order[:PAIRS_AMONG], 2)] if most > 1 else []
    margins = judge(pairs) if pairs else []
    if pairs and min(margins) <= 0:
        return pairs[margins.index(min(margins))]
    chosen: Removed = frozenset({order[0]})
    while len(chosen) < min(most, len(alone)):
        options = [chosen | {i} for i in order if i not in chosen]
        margins = judge(options)
        chosen = options[margins.index(min(margins))]
        if min(margins) <= 0:
            return _pruned(chosen, judge)
    return None


def _pruned(chosen: Removed, judge: Callable[[Sequence[Removed]], list[float]]) -> Removed:
    """Put words back while the verdict stays flipped: 1-minimal."""
    while len(chosen) > 1:
        smaller = [chosen - {i} for i in sorted(chosen)]
        margins = judge(smaller)
        if min(margins) > 0:
            return chosen
        chosen = smaller[margins.index(min(margins))]
    return chosen


def _sufficient(count: int, alone: Sequence[float], judge: Callable[[Sequence[Removed]], list[float]]) -> tuple[int, ...]:
    """Take words away, least important first, as long as the verdict holds."""
    removed: Removed = frozenset()
    for i in sorted(range(count), key=lambda i: alone[i], reverse=True):
        without = removed | {i}
        if judge([without])[0] > 0:
            removed = without
    return tuple(i for i in range(count) if i not in removed)
