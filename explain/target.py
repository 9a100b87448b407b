"""What `explain` needs of a language model: the probability of one fixed reply under changed prompts. Any causal model can offer it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Target(Protocol):
    """One reply (T tokens) to one prompt (P tokens)."""

    prompt_length: int
    reply_length: int
    ids: Tensor
    """(P + T,) int64."""
    forwards: int
    """Counts the sequences that were run through the model."""

    @property
    def embedding(self) -> nn.Module:
        """The layer that turns ids into vectors, called as a module."""
        ...

    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool → (B, T): log-probability of every reply token when only the kept prompt tokens are there."""
        ...

    def log_probs_of(self, ids: Tensor) -> Tensor:
        """ids (B, P + T) in place of the real ones → (B, T), differentiable with respect to the embedding layer's output."""
        ...
