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

    @property
    def forwards(self) -> int:
        """Counts the sequences that were run through the model."""
        ...

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


class Contrast:
    """Why A rather than B: two targets that differ in their last reply token only, scored against each other. Itself a `Target`.

    Its log-probabilities are differences: 0 for every token but the last, and for that the log-odds log p(A) − log p(B) in nats
    (contrastive explanations: Yin & Neubig 2022, arXiv:2202.10419). Any method that explains a target explains the choice so.
    """

    def __init__(self, chosen: Target, other: Target) -> None:
        if (chosen.prompt_length, chosen.reply_length) != (other.prompt_length, other.reply_length):
            raise ValueError("the two replies must answer one prompt and be of one length")
        if not bool((chosen.ids[:-1] == other.ids[:-1]).all()) or bool(chosen.ids[-1] == other.ids[-1]):
            raise ValueError("the two replies must differ in their last token, and in no other")
        self._chosen, self._other = chosen, other
        self.prompt_length, self.reply_length = chosen.prompt_length, chosen.reply_length
        self.ids = chosen.ids

    @property
    def forwards(self) -> int:
        """Of both."""
        return self._chosen.forwards + self._other.forwards

    @property
    def embedding(self) -> nn.Module:
        """The one both share."""
        return self._chosen.embedding

    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool → (B, T): log-odds, in nats."""
        return self._chosen.log_probs(keep) - self._other.log_probs(keep)

    def log_probs_of(self, ids: Tensor) -> Tensor:
        """ids (B, P + T) → (B, T): log-odds, differentiable with respect to the embedding layer's output."""
        return self._chosen.log_probs_of(ids) - self._other.log_probs_of(ids)
