"""What `explain` needs of a language model: the probability of one fixed reply under changed prompts. Any causal model can offer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Target(Protocol):
    """One reply (T tokens) to one prompt (P tokens). Enough for every method that leaves pieces of the prompt out."""

    prompt_length: int
    reply_length: int

    @property
    def forwards(self) -> int:
        """The sequences that were run through the model so far."""
        ...

    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool → (B, T): log-probability of every reply token when only the kept prompt tokens are there."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A `Target` whose arithmetic can be looked into: for the methods that need gradients."""

    @property
    def prompt_ids(self) -> Tensor:
        """(P,) int64."""
        ...

    @property
    def embedding(self) -> nn.Module:
        """The layer that turns ids into vectors, called as a module."""
        ...

    def log_probs_of(self, prompt_ids: Tensor) -> Tensor:
        """prompt_ids (B, P) in place of the real ones → (B, T), differentiable with respect to the embedding layer's output."""
        ...


@runtime_checkable
class Attentive(Protocol):
    """A `Target` whose attention can be read."""

    def attention(self) -> Tensor:
        """(layers, heads, P + T − 1, P + T − 1): how much each position of the unchanged text listens to each."""
        ...

    def listening(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """What the predictions of the reply tokens `rows` took from each position:

        their attention weights (layers, heads, rows, P + T − 1), the Euclidean length of the value vector that each head reads there
        (layers, heads, P + T − 1), and for layers of the target's choice value vector · gradient of the summed log-probability of `rows`
        with respect to it (layers looked at, key-value heads, P + T − 1).
        """
        ...


class Difference:
    """Why this reply rather than that one: log p(one) − log p(other) for the same prompt, the log-odds of the two (contrastive
    explanation, Yin & Neubig 2022, arXiv:2202.10419). A `Target` with one output.

    one, other: the same prompt with two replies, which may begin alike; rows: the tokens of each that are counted.
    """

    reply_length = 1

    def __init__(self, one: Target, other: Target, rows: Sequence[int], other_rows: Sequence[int]) -> None:
        if one.prompt_length != other.prompt_length:
            raise ValueError("the two replies must answer the same prompt")
        if not rows or not other_rows:
            raise ValueError("both replies need at least one token to compare")
        self.one, self.other, self.prompt_length = one, other, one.prompt_length
        self._rows, self._other_rows = list(rows), list(other_rows)

    @property
    def forwards(self) -> int:
        """Sequences run through the model for both."""
        return self.one.forwards + self.other.forwards

    @property
    def differentiable(self) -> bool:
        """Whether both replies are `Differentiable`."""
        return isinstance(self.one, Differentiable) and isinstance(self.other, Differentiable)

    @property
    def prompt_ids(self) -> Tensor:
        """(P,) the prompt of both."""
        assert isinstance(self.one, Differentiable)
        return self.one.prompt_ids

    @property
    def embedding(self) -> nn.Module:
        """The embedding layer of both."""
        assert isinstance(self.one, Differentiable)
        return self.one.embedding

    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool → (B, 1): the log-odds in nats."""
        return self._difference(self.one.log_probs(keep), self.other.log_probs(keep))

    def log_probs_of(self, prompt_ids: Tensor) -> Tensor:
        """prompt_ids (B, P) → (B, 1), differentiable."""
        assert isinstance(self.one, Differentiable) and isinstance(self.other, Differentiable)
        return self._difference(self.one.log_probs_of(prompt_ids), self.other.log_probs_of(prompt_ids))

    def _difference(self, one: Tensor, other: Tensor) -> Tensor:
        mine, theirs = one[:, self._rows].sum(1, keepdim=True), other[:, self._other_rows].sum(1, keepdim=True)
        return torch.sub(mine, theirs)
