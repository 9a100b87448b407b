"""Is an explanation true? Take away what it calls important, or show nothing else, and compare with random choices of the same size."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from explain.problem import Problem

TOP = 3
RANDOM_DRAWS = 12
INSERTION_DRAWS = 6
TESTS = 2 + RANDOM_DRAWS + 2 + 1 + INSERTION_DRAWS + 1 + 1
"""Subsets that `deletion_test`, `insertion_test` and `format_share` score."""


def strongest(scores: Sequence[float], size: int) -> list[int]:
    """The indices of the highest scores, best first."""
    return sorted(range(len(scores)), key=lambda i: scores[i], reverse=True)[:size]


Judge = Callable[[Sequence[Sequence[int]]], Sequence[float]]
"""Sets of feature numbers that are removed → the explained value without them."""


def deletion(judge: Judge, scores: Sequence[float], *, seed: int = 0) -> dict[str, float]:
    """How far the explained value falls without the TOP highest-scored features, against random sets of the same
    size: `drop`, `random_mean`, and `random_better`, the share of random sets that cost more; `drop_1`,
    `drop_5`: without the best one, five.
    """
    count = len(scores)
    size = min(TOP, count)
    rng = random.Random(seed)
    sets = [[], strongest(scores, size), strongest(scores, 1), strongest(scores, 5)]
    sets += [rng.sample(range(count), size) for _ in range(RANDOM_DRAWS)]
    whole, *left = judge(sets)
    drop, one, five, *others = (whole - value for value in left)
    return {
        "drop": drop, "drop_1": one, "drop_5": five,
        "random_mean": sum(others) / len(others),
        "random_better": sum(other > drop + 1e-4 for other in others) / len(others),
    }  # fmt: skip


def insertion(judge: Judge, scores: Sequence[float], *, seed: int = 0) -> dict[str, float]:
    """How far the value rises over that of nothing with the TOP features alone: `rise`, and `random_mean` of random sets."""
    count = len(scores)
    size = min(TOP, count)
    rng = random.Random(seed + 1)
    kept = [[], strongest(scores, size), *(rng.sample(range(count), size) for _ in range(INSERTION_DRAWS))]
    nothing, *values = judge([sorted(set(range(count)) - set(some)) for some in kept])
    rise, *others = (value - nothing for value in values)
    return {"rise": rise, "random_mean": sum(others) / INSERTION_DRAWS}


def deletion_test(problem: Problem, scores: Sequence[float], *, seed: int = 0) -> dict[str, float]:
    """`deletion` of pieces of the prompt; in nats of log-probability."""
    return deletion(_totals(problem), scores, seed=seed)


def insertion_test(problem: Problem, scores: Sequence[float], *, seed: int = 0) -> dict[str, float]:
    """`insertion` of pieces of the prompt; in nats of log-probability."""
    return insertion(_totals(problem), scores, seed=seed)


def card(deleted: Mapping[str, float], inserted: Mapping[str, float], features: int) -> dict[str, Any]:
    """Both tests and the grade under their names on the quality card."""
    return {
        **{f"deletion_{key}": value for key, value in deleted.items()},
        **{f"insertion_{key}": value for key, value in inserted.items()},
        "grade": grade(deleted, features),
    }


def completeness(problem: Problem, scores: Sequence[float]) -> float:
    """|Σ scores − difference| / |difference|, where the difference is that between the whole prompt and nothing of it, in nats."""
    whole, nothing = problem.total(torch.stack([torch.ones(len(scores)), torch.zeros(len(scores))])).tolist()
    return float(abs(sum(scores) - (whole - nothing)) / max(abs(whole - nothing), 1e-9))


def format_share(problem: Problem, scores: Sequence[float]) -> float | None:
    """What leaving out all template tokens but the first changes, as a share of that and of all scores' magnitudes. None where the
    prompt has no other, or where the reply cannot be scored without them (a server may cut it into other tokens then).
    """
    places = [i for i, role in enumerate(problem.roles) if role == "format" and i]
    if not places:
        return None
    keep = torch.ones(1, problem.target.prompt_length, dtype=torch.bool)
    keep[0, places] = False
    try:
        without = float(problem.target.log_probs(keep)[0, problem.rows].sum())
    except ValueError:
        return None
    problem.on_batch(1)
    change = abs(float(problem.total(problem.everything)) - without)
    return change / max(change + sum(map(abs, scores)), 1e-12)


def _totals(problem: Problem) -> Judge:
    return lambda sets: problem.total(_without(sets, len(problem.features))).tolist()


def _without(sets: Sequence[Sequence[int]], count: int) -> torch.Tensor:
    present = torch.ones(len(sets), count)
    for row, removed in enumerate(sets):
        present[row, list(removed)] = 0.0
    return present


def grade(deleted: Mapping[str, float], features: int) -> str:
    """`supported` when at most 5 % of random choices cost more, `weak` when it only beats their mean, else `not supported`.

    With no more features than are removed there is no other choice to compare with: `weak`.
    """
    if features <= TOP:
        return "weak"
    if deleted["random_better"] <= 0.05:
        return "supported"
    return "weak" if deleted["drop"] > deleted["random_mean"] else "not supported"
