"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from explain.target import Attentive, Difference, Differentiable, Target
from explain.units import Unit


@dataclass
class Problem:
    """A target cut into pieces: F features of the prompt that may be left out, O outputs whose log-probability is explained."""

    target: Target
    features: Sequence[Unit]
    """Pieces of the prompt, never template tokens."""
    outputs: Sequence[Unit]
    """Pieces of the reply, counted in reply tokens."""
    roles: Sequence[str] = ()
    """The role of each prompt token, as given."""
    baseline_id: int = 0
    steps: int = 32
    """Of integrated gradients."""
    samples: int = 0
    """Upper bound on random subsets or permutations; 0: the method's own."""
    seed: int = 0
    batch: int = 16
    coefficients: Tensor | None = None
    """(N,) of learned attention (`attention.learned`)."""
    on_batch: Callable[[int], None] = lambda rows: None
    """Told how many sequences were just scored; may raise to stop."""
    known: dict[bytes, Tensor] = field(default_factory=dict)
    """Subsets scored before: packed bits of the mask → (T,) float32. Kept by the caller, a stopped run goes on where it was."""

    @property
    def rows(self) -> list[int]:
        """The reply tokens that are explained."""
        return [i for unit in self.outputs for i in range(unit.start, unit.end)]

    @property
    def everything(self) -> Tensor:
        """(1, F) of ones: the unchanged prompt."""
        return torch.ones(1, len(self.features))

    def forward(self, present: Tensor) -> Tensor:
        """(B, F) of ones and zeros → (B, T): reply log-probabilities with the features at 0 deleted. No subset is scored twice."""
        bits = present.bool()
        keys = [row.numpy().tobytes() for row in bits]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        new = list({keys[i]: i for i in new}.values())
        for at in range(0, len(new), self.batch):
            chosen = new[at : at + self.batch]
            keep = torch.ones(len(chosen), self.target.prompt_length, dtype=torch.bool)
            for column, unit in enumerate(self.features):
                for start, end in unit.spans:
                    keep[:, start:end] = bits[chosen, column].unsqueeze(1)
            for i, row in zip(chosen, self.target.log_probs(keep).float().cpu(), strict=True):
                self.known[keys[i]] = row
            self.on_batch(len(chosen))
        return torch.stack([self.known[key] for key in keys])

    def total(self, present: Tensor) -> Tensor:
        """(B, F) → (B,): the summed log-probability of what is explained."""
        return self.forward(present)[:, self.rows].sum(1)

    def per_output(self, matrix: Tensor) -> list[list[float]]:
        """(T, F) token rows to one row per output."""
        return [cast("list[float]", matrix[unit.start : unit.end].sum(0).tolist()) for unit in self.outputs]

    def label(self) -> str:
        """All outputs in one."""
        return "".join(unit.text for unit in self.outputs)

    def differentiable(self, method: str) -> Differentiable:
        """The target for gradients. Raises ValueError when the model does not offer them."""
        offered = self.target.differentiable if isinstance(self.target, Difference) else isinstance(self.target, Differentiable)
        if not offered:
            raise ValueError(f"{method} needs gradients, which this model does not offer: choose ablation")
        return cast(Differentiable, self.target)

    def attentive(self, method: str) -> Attentive:
        """The target for attention weights. Raises ValueError when the model does not offer them."""
        if not isinstance(self.target, Attentive):
            raise ValueError(f"{method} needs attention weights, which are not offered here: choose ablation")
        return self.target


@dataclass
class Scores:
    """What a method found: one row of F scores per label."""

    rows: list[list[float]]
    labels: list[str]
    card: Mapping[str, Any] = field(default_factory=dict)
    """What belongs on the quality card."""
    errors: list[float] | None = None
    """Standard error of each feature's total, of methods that sample."""
