"""Explaining by attention: what the model listened to while it wrote. One forward pass.

`learned-attention` weighs every head by a coefficient fitted once, so that the weighted attention predicts what leaving a piece out
would do (Cohen-Wang et al. 2025, "AT2"; heads differ: most of them look at places that change nothing). `attention-rollout` multiplies
the averaged attention through the layers (Abnar & Zuidema 2020, arXiv:2005.00928): an inside view, not an attribution, and no better
than chance here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from explain.problem import Problem, Scores

LEARNED, ROLLOUT = "learned-attention", "attention-rollout"


def heads(problem: Problem, method: str = LEARNED) -> Tensor:
    """(layers · heads, O, F): each head's attention from an output's tokens (their mean) to a feature's tokens (their sum)."""
    return _gathered(problem, _weights(problem, method), [unit.spans for unit in problem.features])


def _weights(problem: Problem, method: str) -> Tensor:
    return problem.attentive(method).attention().float().cpu().flatten(0, 1)  # (layers · heads, T, P + T − 1)


def _gathered(problem: Problem, weights: Tensor, pieces: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    parts = [[weights[:, :, start:end].sum(-1) for start, end in spans] for spans in pieces]
    by_piece = torch.stack([torch.stack(part).sum(0) for part in parts], -1)  # (LH, T, F)
    return torch.stack([by_piece[:, unit.start : unit.end].mean(1) for unit in problem.outputs], 1)


def learned(problem: Problem) -> Scores:
    """A row per output. Raises ValueError when no coefficients were fitted for this model."""
    theta = problem.coefficients
    if theta is None:
        raise ValueError(f"{LEARNED} has no coefficients for this model: fit them with `pellucid explain fit`, or choose ablation")
    weights = _weights(problem, LEARNED)
    found = _gathered(problem, weights, [unit.spans for unit in problem.features])
    if theta.numel() != len(found):
        raise ValueError(f"the coefficients are for {theta.numel()} heads, this model has {len(found)}: fit them again")
    problem.on_batch(1)
    lengths = torch.tensor([float(unit.end - unit.start) for unit in problem.outputs])
    rows = torch.einsum("h,hof->of", theta.flatten().float(), found) * lengths.unsqueeze(1)  # an output is the sum of its tokens
    each = torch.stack([weights[:, unit.start : unit.end, : problem.target.prompt_length].mean(1) for unit in problem.outputs], 1)
    each = torch.einsum("h,hop->op", theta.flatten().float(), each) * lengths.unsqueeze(1)
    card = {"heads": len(found), "format_share": _share(problem, each.sum(0))}
    return Scores(rows.tolist(), [unit.text for unit in problem.outputs], card)


def rollout(problem: Problem) -> Scores:
    """One row: attention averaged over heads, mixed half and half with the residual stream, multiplied through all layers."""
    target = problem.attentive(ROLLOUT)
    weights = target.attention(everywhere=True).float().cpu().mean(1)  # (layers, L, L)
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
