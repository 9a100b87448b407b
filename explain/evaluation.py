"""How faithful is a method? The rank correlation between what its scores predict and what really happens when pieces are left out.

The linear datamodelling score (LDS; Park et al. 2023, arXiv:2303.14186): over random subsets of the prompt, the rank correlation of
the summed scores of the pieces that stay with the reply's log-probability given only those. All subsets have one size: with varying
sizes any positive scores look good, random ones included.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from explain.compare import spearman
from explain.problem import Problem

SUBSETS = 24


def subsets(count: int, number: int = SUBSETS, seed: int = 0) -> Tensor:
    """(number, count) of ones and zeros, half of each row's pieces kept."""
    rng = random.Random(seed)
    out = torch.zeros(number, count)
    for row in out:
        row[rng.sample(range(count), count // 2)] = 1.0
    return out


def outcomes(problem: Problem, number: int = SUBSETS, seed: int = 1_000_003) -> tuple[Tensor, Tensor]:
    """(the subsets, what is explained given each of them); the seed differs from those the methods draw with."""
    masks = subsets(len(problem.features), number, seed)
    return masks, problem.total(masks)


def datamodelling_score(scores: Sequence[float], masks: Tensor, actual: Tensor) -> float:
    """LDS in −1…1."""
    predicted = masks @ torch.tensor(list(scores), dtype=torch.float32)
    return spearman(predicted.tolist(), actual.tolist())


def interval(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, lower, upper): the bootstrap's 95 % confidence interval over prompts."""
    if not values:
        raise ValueError("there is nothing to average")
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return sum(values) / len(values), means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def fit_heads(features: Sequence[Tensor], masks: Sequence[Tensor], actual: Sequence[Tensor], *, ridge: float = 1.0) -> Tensor:
    """(N,) coefficients such that, on every prompt, Σ of θ·features over the kept pieces follows the outcome.

    features: per prompt (N, F), what `attention.taken` found for each piece; masks (n, F) and actual (n,): subsets and outcomes. The
    outcomes are standardised per prompt, so that no single prompt decides; ridge regression on the pooled rows, columns in units of their
    spread.
    """
    x = torch.cat([_centred(mask @ feature.t()) for feature, mask in zip(features, masks, strict=True)]).double()
    y = torch.cat([_centred(a) / a.std().clamp_min(1e-6) for a in actual]).double()
    spread = x.std(0).clamp_min(1e-9)
    z = x / spread
    theta: Tensor = torch.linalg.solve(z.t() @ z + ridge * len(z) * torch.eye(z.shape[1], dtype=torch.float64), z.t() @ y)
    return (theta / spread).float()


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(0)
