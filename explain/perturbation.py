"""Explaining by leaving out: what happens to the reply's log-probability when a piece of the prompt is not there?

Captum's FeatureAblation (Zeiler & Fergus 2014, arXiv:1311.2901) drives it, over our own forward function: one feature per unit,
all variants in batches, all reply tokens scored by each. Captum's wrapper for language models is not used: its default path feeds
the whole sequence again on top of the cache with current `transformers` and silently scores something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from captum.attr import FeatureAblation
from torch import Tensor

from explain.target import Target
from explain.units import Unit

NAME = "ablation"


def forward_function(target: Target, features: Sequence[Unit], on_batch: Callable[[int], None]) -> Callable[[Tensor], Tensor]:
    """(B, F) of ones and zeros → (B, T): reply log-probabilities with the features at 0 deleted from the prompt."""

    def forward(present: Tensor) -> Tensor:
        keep = torch.ones(len(present), target.prompt_length, dtype=torch.bool)
        for column, unit in enumerate(features):
            keep[:, unit.start : unit.end] = present[:, column].bool().unsqueeze(1)
        scores = target.log_probs(keep)
        on_batch(len(present))
        return scores

    return forward


def ablate(target: Target, features: Sequence[Unit], *, batch: int = 16, on_batch: Callable[[int], None] = lambda rows: None) -> Tensor:
    """(T, F): log p(reply token) with everything there, minus the same without the feature, in nats."""
    forward = forward_function(target, features, on_batch)
    present = torch.ones(1, len(features))
    result: Tensor = FeatureAblation(forward).attribute(present, baselines=0, perturbations_per_eval=min(batch, len(features)))
    return result.reshape(target.reply_length, len(features)).float().cpu()
