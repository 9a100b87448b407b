"""Is an explanation true? Take away what it calls important, or show nothing else, and compare with random choices of the same size."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from explain.problem import Problem

TOP = 3
RANDOM_DRAWS = 12
INSERTION_DRAWS = 6
TESTS = 2 + RANDOM_DRAWS + 2 + 1 + INSERTION_DRAWS + 1
"""Subsets that `deletion_test` and `insertion_test` score."""


def strongest(scores: Sequence[float], size: int) -> list[int]:
    """The indices of the highest scores, best first."""
    return sorted(range(len(scores)), key=lambda i: scores[i], reverse=True)[:size]


def deletion_test(problem: Problem, scores: Sequence[float], *, seed: int = 0) -> dict[str, float]:
    """How far the explained log-probability falls (in nats) without the TOP highest-scored features, against random sets of the same
    size: `drop`, `random_mean`, and `random_better`, the share of random sets that cost more; `drop_1`,
    `drop_5`: without the best one, five.
    """
    count = len(scores)
    size = min(TOP, count)
    rng = random.Random(seed)
    sets = [[], strongest(scores, size), strongest(scores, 1), strongest(scores, 5)]
    sets += [rng.sample(range(count), size) for _ in range(RANDOM_DRAWS)]
    totals = problem.total(_without(sets, count))
    drops: list[float] = (totals[0] - totals[1:]).tolist()
    drop, one, five, *others = drops
    return {
        "drop": drop, "drop_1": one, "drop_5": five,
        "random_mean": sum(others) / len(others),
        "random_better": sum(other > drop + 1e-4 for other in others) / len(others),
    }  # fmt: skip


def insertion_test(problem: Problem, scores: Sequence[float], *, seed: int = 0) -> dict[str, float]:
    """How far the log-probability rises over the empty prompt with the TOP features alone: `rise`, and `random_mean` of random sets."""
    count = len(scores)
    size = min(TOP, count)
    rng = random.Random(seed + 1)
    sets = [[], strongest(scores, size), *(rng.sample(range(count), size) for _ in range(INSERTION_DRAWS))]
    totals = problem.total(1 - _without(sets, count))
    rises: list[float] = (totals[1:] - totals[0]).tolist()
    return {"rise": rises[0], "random_mean": sum(rises[1:]) / INSERTION_DRAWS}


def _without(sets: Sequence[Sequence[int]], count: int) -> torch.Tensor:
    present = torch.ones(len(sets), count)
    for row, removed in enumerate(sets):
        present[row, list(removed)] = 0.0
    return present


def grade(card: Mapping[str, float], features: int) -> str:
    """`supported` when at most 5 % of random choices cost more, `weak` when it only beats their mean, else `not supported`.

    With no more features than are removed there is no other choice to compare with: `weak`.
    """
    if features <= TOP:
        return "weak"
    if card["random_better"] <= 0.05:
        return "supported"
    return "weak" if card["drop"] > card["random_mean"] else "not supported"
