"""Explaining by random subsets of the prompt, with error bars, stopping when they are small enough.

`contextcite` fits a sparse linear model to what random halves of the prompt do to the reply (Cohen-Wang et al. 2024, arXiv:2409.00729): the
Lasso on subsets that keep each piece with probability ½; the outcome is the logit of the reply's probability per token.
`shapley` averages what a piece adds in random orders (Castro et al. 2009), through Captum's ShapleyValueSampling: its scores sum to
f(whole prompt) − f(empty prompt).

The `stability` on their cards is the rank correlation of the scores from one half of what was drawn with those from the other: two runs
under two seeds, each with half the samples.
"""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import ShapleyValueSampling
from numpy.typing import NDArray
from torch import Tensor

from explain.compare import spearman
from explain.problem import Problem, Scores

CONTEXTCITE, SHAPLEY = "contextcite", "shapley"
PENALTY = 0.01
"""The weight of the Lasso's absolute-value penalty on standardised masks, as in ContextCite."""
ROUND, MOST_SUBSETS = 32, 256
MOST_ORDERS = 24
PRECISE = 0.1
"""Sampling stops when the mean standard error is below this share of the largest score."""
Array = NDArray[np.float64]


def contextcite(problem: Problem) -> Scores:
    """One row for everything that is explained: the weights of the linear model, in nats."""
    count, most = len(problem.features), problem.samples or MOST_SUBSETS
    random = torch.Generator().manual_seed(problem.seed)
    masks, outcomes = torch.zeros(0, count), torch.zeros(0)
    tokens = len(problem.rows)
    while True:
        size = min(ROUND, most - len(masks))
        fresh = (torch.rand(size, count, generator=random) < 0.5).float()
        masks, outcomes = torch.cat([masks, fresh]), torch.cat([outcomes, problem.total(fresh)])
        x, y = masks.numpy().astype(np.float64), _logit(outcomes).numpy().astype(np.float64) / tokens
        weights = lasso(x, y)
        errors = _bootstrap(x, y, problem.seed)
        small = float(errors.mean()) <= PRECISE * float(np.abs(weights).max(initial=0.0))
        if len(masks) >= most or small:
            break
    card = {"samples": len(masks), "keep_probability": 0.5, "penalty": PENALTY, "converged": small}
    if len(masks) >= 4:
        card["stability"] = spearman(lasso(x[::2], y[::2]).tolist(), lasso(x[1::2], y[1::2]).tolist())
    return Scores([(weights * tokens).tolist()], [problem.label()], card, (errors * tokens).tolist())


def _logit(log_p: Tensor) -> Tensor:
    """log(p / (1 − p)) from log p."""
    log_p = log_p.double().clamp(max=-1e-9)
    return log_p - torch.log(-torch.expm1(log_p))


def lasso(x: Array, y: Array, penalty: float = PENALTY, rounds: int = 200) -> Array:
    """Weights (F,) that minimise ‖y − Xw − c‖² / 2n + penalty · ‖w·σ‖₁ for masks x (n, F).

    By cyclic coordinate descent (Friedman et al. 2010).
    """
    spread = x.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    z, rest = (x - x.mean(0)) / scale, y - y.mean()
    w = np.zeros(x.shape[1])
    for _ in range(rounds):
        moved = 0.0
        for j in np.flatnonzero(spread):
            old = w[j]
            rho = float(z[:, j] @ rest) / len(y) + old
            w[j] = np.sign(rho) * max(abs(rho) - penalty, 0.0)
            if w[j] != old:
                rest -= z[:, j] * (w[j] - old)
                moved = max(moved, abs(w[j] - old))
        if moved < 1e-7:
            break
    return np.asarray(w / scale)


def _bootstrap(x: Array, y: Array, seed: int, draws: int = 12) -> Array:
    """The standard error of each weight over resampled subsets."""
    rng = np.random.default_rng(seed)
    fits = [lasso(x[i], y[i], rounds=30) for i in (rng.integers(0, len(y), len(y)) for _ in range(draws))]
    return np.asarray(np.std(fits, axis=0, ddof=1))


def shapley(problem: Problem) -> Scores:
    """A row per output: the mean of what each feature adds over random orders."""
    most, count = problem.samples or MOST_ORDERS, len(problem.features)
    method, drawn = ShapleyValueSampling(problem.forward), []
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(problem.seed)  # Captum draws its orders from torch's own generator
        while True:
            one: Tensor = method.attribute(problem.everything, baselines=0, n_samples=1, perturbations_per_eval=problem.batch)
            drawn.append(one.reshape(problem.target.reply_length, count).float().cpu())
            stack = torch.stack(drawn)
            mean, totals = stack.mean(0), stack[:, problem.rows].sum(1)  # (T, F), (n, F)
            errors = totals.std(0) / len(drawn) ** 0.5 if len(drawn) > 1 else torch.full((count,), torch.inf)
            small = len(drawn) >= 4 and float(errors.mean()) <= PRECISE * float(totals.mean(0).abs().max())
            if len(drawn) >= most or small:
                break
    finally:
        torch.random.set_rng_state(state)
    difference = float(problem.total(problem.everything) - problem.total(torch.zeros(1, count)))
    explained = float(totals.mean(0).sum())
    card = {"orders": len(drawn), "converged": small, "completeness_error": abs(explained - difference) / max(abs(difference), 1e-9)}
    if len(drawn) > 1:
        card["stability"] = spearman(totals[::2].mean(0).tolist(), totals[1::2].mean(0).tolist())
    return Scores(problem.per_output(mean), [unit.text for unit in problem.outputs], card, errors.tolist())
