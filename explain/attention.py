"""Explaining by attention: what the model listened to while it wrote. `learned-attention` takes one pass forth and most of one back.

What a head takes from a position is the attention it pays times the length of the value vector there (Kobayashi et al. 2020,
arXiv:2004.10102); how the reply changes with that value vector is its gradient times the vector. `learned-attention` weighs both, head
by head and layer by layer, by coefficients fitted once, so that their sum predicts what leaving a piece out would do (as in Cohen-Wang
et al. 2025, "AT2", which weighs attention alone; heads differ: most of them look at places that change nothing). A piece with ten times
the attention does not change the reply ten times as much: each number is weighed together with its roots. `attention-rollout` multiplies
the averaged attention through the layers (Abnar & Zuidema 2020, arXiv:2005.00928): an inside view, not an attribution, and no better than
chance here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from explain.problem import Problem, Scores

LEARNED, ROLLOUT = "learned-attention", "attention-rollout"
POWERS = (1.0, 0.5, 0.25)
"""What the numbers of a piece are weighed as: themselves, their roots, and the roots of those."""


def taken(problem: Problem, method: str = LEARNED) -> Tensor:
    """(N, P + T − 1): for every position, what each head took from it for what is explained, then the gradient · value of every layer that
    is looked at and each of its key-value heads."""
    weights, lengths, pulls = problem.attentive(method).listening(problem.rows)
    heard = weights.float().sum(2) * lengths  # (layers, H, P + T − 1)
    return torch.cat([heard.flatten(0, 1), pulls.flatten(0, 1)]).cpu()


def by_piece(problem: Problem, positions: Tensor) -> Tensor:
    """(N, P + T − 1) → (N, F): summed over the tokens of each feature."""
    return torch.stack([torch.stack([positions[:, a:b].sum(-1) for a, b in unit.spans]).sum(0) for unit in problem.features], -1)


def powers(pieces: Tensor) -> Tensor:
    """(N, F) → (3 N, F): `POWERS` of what was found for each piece, with its sign."""
    return torch.cat([pieces.sign() * pieces.abs() ** power for power in POWERS])


def learned(problem: Problem) -> Scores:
    """One row for everything that is explained. Raises ValueError when no coefficients were fitted for this model."""
    theta = problem.coefficients
    if theta is None:
        raise ValueError(f"{LEARNED} has no coefficients for this model: fit them with `pellucid explain fit`, or choose ablation")
    found = taken(problem)
    needed = len(POWERS) * len(found)
    if theta.numel() != needed:
        raise ValueError(f"the coefficients are {theta.numel()}, this model needs {needed}: fit them again with `pellucid explain fit`")
    problem.on_batch(1)
    if not torch.isfinite(found).all():
        raise FloatingPointError("the gradients are not finite numbers: explain by ablation")
    theta = theta.flatten().float()
    row = (theta @ powers(by_piece(problem, found))).tolist()
    card = {"coefficients": needed, "format_share": _share(problem, theta @ powers(found[:, : problem.target.prompt_length]))}
    return Scores([row], [problem.label()], card)


def rollout(problem: Problem) -> Scores:
    """One row: attention averaged over heads, mixed half and half with the residual stream, multiplied through all layers."""
    weights = problem.attentive(ROLLOUT).attention().float().cpu().mean(1)  # (layers, L, L)
    size = weights.shape[-1]
    through = torch.eye(size)
    for layer in weights:
        through = (0.5 * layer + 0.5 * torch.eye(size)) @ through
    problem.on_batch(1)
    asking = [problem.target.prompt_length - 1 + row for row in problem.rows]  # the positions that predict the reply tokens
    arriving = through[asking].sum(0)
    row = [sum(float(arriving[start:end].sum()) for start, end in unit.spans) for unit in problem.features]
    card = {"signed": False, "view": "inside", "format_share": _share(problem, arriving[: problem.target.prompt_length])}
    return Scores([row], [problem.label()], card)


def _share(problem: Problem, positions: Tensor) -> float:
    """The share of the magnitudes (P,) that lies on template tokens."""
    template = [i for i, role in enumerate(problem.roles) if role == "format"]
    size = positions.abs()
    return float(size[template].sum() / size.sum().clamp_min(1e-12))
