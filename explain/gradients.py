"""Explaining by gradients: integrated gradients at the embedding layer (Sundararajan et al. 2017, arXiv:1703.01365), with its own error.

The gradient of the reply's log-probability is summed along a straight line from a baseline, in which every attributed token is
replaced by a neutral one, to the real prompt. In exact arithmetic with infinitely many steps the scores sum to f(prompt) −
f(baseline); how far they miss that is the completeness error, and it is always reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor

from explain.target import Target
from explain.units import Unit

NAME = "integrated-gradients"


def integrate(
    target: Target, features: Sequence[Unit], rows: Sequence[int], *, baseline_id: int, steps: int = 32, batch: int = 4
) -> tuple[Tensor, float, float]:
    """((F,) scores in nats for the summed log-probability of the reply tokens `rows`, f(prompt) − f(baseline), completeness error).

    The completeness error is |Σ scores − difference| / |difference|.
    """
    ids = target.ids.unsqueeze(0)
    baseline = ids.clone()
    for unit in features:
        baseline[:, unit.start : unit.end] = baseline_id
    chosen = torch.tensor(list(rows), device=ids.device)

    def forward(tokens: Tensor) -> Tensor:
        return target.log_probs_of(tokens).index_select(1, chosen).sum(1)

    method = LayerIntegratedGradients(forward, target.embedding)
    result: tuple[Tensor, Tensor] = method.attribute(  # type: ignore[has-type]
        ids, baselines=baseline, n_steps=steps, internal_batch_size=batch, return_convergence_delta=True
    )
    attributions, delta = result
    # one value per position: summed over the width; the last token is a target only and never embedded
    per_position = attributions.detach().sum(-1)[0].float().cpu()
    with torch.no_grad():
        difference = float(forward(ids) - forward(baseline))
    scores = torch.stack([per_position[unit.start : unit.end].sum() for unit in features])
    if not torch.isfinite(scores).all():
        raise FloatingPointError("the gradients are not finite numbers")
    return scores, difference, abs(float(delta)) / max(abs(difference), 1e-9)
