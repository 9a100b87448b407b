"""Is an explanation true? Take away what it calls important and see whether the reply suffers more than from a random choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOP = 3
RANDOM_DRAWS = 12


def deletion_test(
    forward: Callable[[Tensor], Tensor], scores: Sequence[float], rows: Sequence[int], *, seed: int = 0, batch: int = 16
) -> dict[str, float]:
    """How far the summed log-probability of the reply tokens `rows` falls (in nats) without the TOP highest-scored features, against
    random sets of the same size: `drop`, `random_mean`, and `random_better`, the share of random sets that cost more.

    forward: (B, F) of ones and zeros → (B, T).
    """
    count = len(scores)
    size = min(TOP, count)
    best = sorted(range(count), key=lambda i: scores[i], reverse=True)[:size]
    rng = random.Random(seed)
    sets: list[list[int]] = [[], best, *(rng.sample(range(count), size) for _ in range(RANDOM_DRAWS))]
    present = torch.ones(len(sets), count)
    for row, removed in enumerate(sets):
        present[row, removed] = 0.0
    totals = torch.cat([forward(part) for part in torch.split(present, batch)])[:, list(rows)].sum(1)
    drops = (totals[0] - totals[1:]).tolist()
    others = drops[1:]
    return {
        "drop": drops[0],
        "random_mean": sum(others) / len(others),
        "random_better": sum(other > drops[0] + 1e-4 for other in others) / len(others),
    }


def grade(card: dict[str, float], features: int) -> str:
    """`supported` when at most 5 % of random choices cost more, `weak` when it only beats their mean, else `not supported`.

    With no more features than are removed there is no other choice to compare with: `weak`.
    """
    if features <= TOP:
        return "weak"
    if card["random_better"] <= 0.05:
        return "supported"
    return "weak" if card["drop"] > card["random_mean"] else "not supported"
