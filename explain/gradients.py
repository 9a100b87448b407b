"""Explaining by gradients: how the reply's log-probability changes with the embedding vectors of the prompt.

`integrated-gradients` (Sundararajan et al. 2017, arXiv:1703.01365) sums the gradient along a straight line from a baseline, in which
every attributed token is replaced by a neutral one, to the real prompt. In exact arithmetic with infinitely many steps the scores sum
to f(prompt) − f(baseline); how far they miss that is the completeness error, and it is always reported.

`gradient-norm` is the length of the gradient at each position (Li et al. 2016, arXiv:1506.01066): one pass back and forth, no sign: it
tells what the reply is sensitive to. `input-x-gradient` (Shrikumar et al. 2016, arXiv:1605.01713) multiplies by the embedding; it
is offered for comparison, being no better than chance on this kind of model.
"""

from __future__ import annotations

import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from torch import Tensor

from explain.problem import Problem, Scores
from explain.target import Differentiable

INTEGRATED, NORM, PRODUCT = "integrated-gradients", "gradient-norm", "input-x-gradient"
INTERNAL_BATCH = 4
"""Steps of the path run at once: bounds memory."""


def integrate(problem: Problem) -> Scores:
    """One row for everything that is explained. Raises FloatingPointError for gradients that are not finite.

    The completeness error is |Σ scores − difference| / |difference|.
    """
    target = problem.differentiable(INTEGRATED)
    ids = target.prompt_ids.unsqueeze(0)
    baseline = ids.clone()
    for unit in problem.features:
        for start, end in unit.spans:
            baseline[:, start:end] = problem.baseline_id

    def forward(tokens: Tensor) -> Tensor:
        return target.log_probs_of(tokens)[:, problem.rows].sum(1)

    method = LayerIntegratedGradients(forward, target.embedding)
    result: tuple[Tensor, Tensor] = method.attribute(  # type: ignore[has-type]
        ids, baselines=baseline, n_steps=problem.steps, internal_batch_size=INTERNAL_BATCH, return_convergence_delta=True
    )
    attributions, delta = result
    with torch.no_grad():
        difference = float(forward(ids) - forward(baseline))
    problem.on_batch(problem.steps)
    row, card = _by_feature(problem, attributions.detach().sum(-1)[0].float().cpu())
    error = abs(float(delta)) / max(abs(difference), 1e-9)
    card |= {"steps": problem.steps, "baseline": "neutral token", "difference": difference, "completeness_error": error}
    return Scores([row], [problem.label()], card)


def norm(problem: Problem) -> Scores:
    """One row: per feature, the Euclidean length of the gradient with respect to its embedding vectors. Never negative."""
    target = problem.differentiable(NORM)
    gradient = _gradient(target, problem)
    problem.on_batch(1)
    row, card = _by_feature(problem, gradient.square().sum(-1), root=True)
    return Scores([row], [problem.label()], card | {"signed": False})


def product(problem: Problem) -> Scores:
    """One row: per feature, gradient · embedding, through Captum."""
    target = problem.differentiable(PRODUCT)
    ids = target.prompt_ids.unsqueeze(0)

    def forward(tokens: Tensor) -> Tensor:
        return target.log_probs_of(tokens)[:, problem.rows].sum(1)

    scores: Tensor = LayerGradientXActivation(forward, target.embedding).attribute(ids)
    problem.on_batch(1)
    row, card = _by_feature(problem, scores.detach().sum(-1)[0].float().cpu())
    return Scores([row], [problem.label()], card)


def _gradient(target: Differentiable, problem: Problem) -> Tensor:
    """(P, D): the gradient of what is explained with respect to the embedding of each prompt token."""
    held: list[Tensor] = []

    def keep(module: object, args: object, output: Tensor) -> Tensor:
        held.append(output.detach().requires_grad_())
        return held[-1]

    handle = target.embedding.register_forward_hook(keep)
    try:
        target.log_probs_of(target.prompt_ids.unsqueeze(0))[:, problem.rows].sum().backward()  # type: ignore[no-untyped-call]
    finally:
        handle.remove()
    length = len(target.prompt_ids)
    total = torch.zeros_like(held[0][0, :length])
    for vectors in held:  # a difference of two replies reads the prompt twice
        if vectors.grad is not None:
            total += vectors.grad[0, :length]
    return total.float().cpu()


def _by_feature(problem: Problem, positions: Tensor, *, root: bool = False) -> tuple[list[float], dict[str, object]]:
    """Position scores (≥ P,) summed over each feature (or their root mean sum), and the share that fell on template tokens."""
    if not torch.isfinite(positions).all():
        raise FloatingPointError("the gradients are not finite numbers: explain by ablation")
    row = [sum(float(positions[start:end].sum()) for start, end in unit.spans) for unit in problem.features]
    size = positions.sqrt() if root else positions.abs()
    template = [i for i, role in enumerate(problem.roles) if role == "format"]
    share = float(size[template].sum() / size[: problem.target.prompt_length].sum().clamp_min(1e-12))
    return [value**0.5 for value in row] if root else row, {"format_share": share}
