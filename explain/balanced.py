"""Explaining by leaving out, in company of everything, of nothing, and of about half of the rest.

`ablation` asks what a piece is worth while all others are there. Where two pieces say the same, each is then worth nothing, and where
one needs the other, both are worth the whole. `balanced-ablation` asks in every company: each piece is left out of the whole prompt, each
is put alone into the empty one (both through Captum's FeatureAblation), and random subsets of a little less than half are scored, each
with its complement, which cancels what pieces do in pairs (paired sampling: Covert & Lee 2021, arXiv:2012.01536). A Gaussian process (a
linear and an exponential kernel over the number of differing pieces) is put through all that was scored, and a piece's score is what it
adds to that surface on average over all companies: its Banzhaf value (1965), here in closed form. Like the log-probabilities, the scores
of single reply tokens add up.
"""

from __future__ import annotations

import math
import warnings

import torch
from captum.attr import FeatureAblation
from torch import Tensor

from explain.compare import spearman
from explain.perturbation import matrix
from explain.problem import Problem, Scores

NAME = "balanced-ablation"
PAIRS = 32
"""Random subsets, each scored with its complement."""
LINEAR, NOISE = 0.5, 0.01
"""The weight of the linear kernel and of noise, where the exponential kernel has 1. What comes out hardly depends on them."""


def cost(features: int, pairs: int = PAIRS) -> int:
    """Sequences that are run for so many features."""
    return 2 * features + 2 + 2 * pairs


def balance(problem: Problem) -> Scores:
    """A row per output: what each feature adds to its log-probability in the company of a random half of the others, in nats.

    `problem.samples` bounds the random subsets. The `stability` on the card is the rank correlation of the scores from one half of the
    pairs with those from the other.
    """
    count = len(problem.features)
    matrix(problem)
    with warnings.catch_warnings():  # of a batch larger than the number of features
        warnings.simplefilter("ignore")
        FeatureAblation(problem.forward).attribute(torch.zeros(1, count), baselines=1, perturbations_per_eval=min(problem.batch, count))
    edge = torch.cat([torch.ones(1, count), 1 - torch.eye(count), torch.eye(count), torch.zeros(1, count)])
    some = subsets(count, problem.samples // 2 or PAIRS, problem.seed)
    found = values(problem, torch.cat([edge, some, 1 - some]))
    card = {"removal": "deleted", "pairs": len(some)}
    if len(some) > 1:
        totals = [values(problem, torch.cat([edge, some[i::2], 1 - some[i::2]]))[problem.rows].sum(0).tolist() for i in (0, 1)]
        card["stability"] = spearman(*totals)
    return Scores(problem.per_output(found), [unit.text for unit in problem.outputs], card)


def subsets(count: int, pairs: int, seed: int) -> Tensor:
    """(pairs, count) of ones and zeros: random choices of one feature less than half of them, so that neither they nor their complements
    are halves, the subsets that explanations are judged by (see `evaluation`)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(pairs, count, generator=generator).argsort(1)
    return (order < count // 2 - 1).float()


def values(problem: Problem, masks: Tensor) -> Tensor:
    """(T, F): the Banzhaf values of the surface through the outcomes of `masks` (N, F), those for every reply token."""
    masks = torch.unique(masks, dim=0)
    return (surface(masks) @ problem.forward(masks).double()).t().float()


def surface(masks: Tensor) -> Tensor:
    """(F, N): what turns the outcomes of N different subsets into Banzhaf values.

    With signs s = ±1 and Hamming distance h, the kernel is LINEAR · s·s′ / F + e^(−h / F) + 1. The mean difference that feature i makes to
    the kernel at a subset is its sign there times a constant: the other features' factors average to ((1 + e^(−1/F)) / 2)^(F−1).
    """
    count = masks.shape[1]
    signs = 2 * masks.double() - 1
    product = signs @ signs.t()
    kernel = LINEAR * product / count + torch.exp((product - count) / (2 * count)) + 1
    centre = torch.eye(len(masks), dtype=torch.float64) - 1 / len(masks)
    weights = torch.linalg.solve(kernel + NOISE * torch.eye(len(masks), dtype=torch.float64), centre)
    near = math.exp(-1 / count)
    slope = 2 * LINEAR / count + ((1 + near) / 2) ** (count - 1) * (1 - near)
    found: Tensor = slope * signs.t() @ weights
    return found
