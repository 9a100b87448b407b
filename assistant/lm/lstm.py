"""The recurrent baseline: a long short-term memory (Hochreiter & Schmidhuber 1997; with a forget gate, Gers et al. 2000).

One state walks along the text, and three gates decide what stays in it:

    f, i, o = σ(W x_t + U h_{t−1} + b)           what to forget, what to take in, what to say
    g       = tanh(W_g x_t + U_g h_{t−1} + b_g)  what could be taken in
    c_t     = f ⊙ c_{t−1} + i ⊙ g                the memory: changed by adding, so gradients survive long ways
    h_t     = o ⊙ tanh(c_t)                      what the next layer and the next step see

Tied embeddings (Press & Wolf 2017, arXiv:1608.05859) need a state in the embedding's space before it is compared with every entry: when the
state's size H is not the embedding's size D, a matrix (D, H) leads back. The output has one score per vocabulary entry, never one per unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.errors import UsageError

State = tuple[Tensor, Tensor]
"""(h, c), each (layers, B, H)."""


@dataclass(frozen=True, slots=True)
class LSTMConfig:
    """The sizes of an LSTM language model."""

    vocab_size: int
    width: int
    """D, of the embedding."""
    hidden: int
    """H, of the state."""
    n_layers: int
    context_length: int
    """How many tokens it was trained to remember; it can read on."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.width, self.hidden, self.n_layers, self.context_length) < 1:
            raise UsageError("every size of a model must be at least 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, not {self.dropout}")


class LSTM(nn.Module):
    """The model; `forward` and `logits` mean what they mean for `Transformer`."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        between = config.dropout if config.n_layers > 1 else 0.0
        self.lstm = nn.LSTM(config.width, config.hidden, config.n_layers, batch_first=True, dropout=between)
        self.back = nn.Linear(config.hidden, config.width, bias=False) if config.hidden != config.width else None
        self.dropout = nn.Dropout(config.dropout)
        self.head = self.embedding

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) for ids (B, L), from an empty memory. `positions` and `mask` must be None: an LSTM reads in order."""
        if positions is not None or mask is not None:
            raise UsageError("an LSTM cannot keep packed documents apart: train it on a stream")
        return self.read(ids, None)[0]

    def read(self, ids: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Hidden states (B, L, D) and the memory after the last of `ids` (B, L), going on from `state`."""
        out, state = self.lstm(self.dropout(self.embedding(ids)), state)  # nn.LSTM returns two things: all outputs, and the last memory
        if self.back is not None:
            out = self.back(out)
        return self.dropout(out), state

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) to float32 scores (…, V)."""
        return F.linear(hidden, self.head.weight).float()


def parameters_of(config: LSTMConfig) -> int:
    """How many numbers an LSTM of these sizes has."""
    with torch.device("meta"):
        return sum(p.numel() for p in LSTM(config).parameters())


def matching(parameters: int, vocab_size: int, width: int, n_layers: int, context_length: int) -> LSTMConfig:
    """The LSTM with the embedding of a Transformer whose size comes closest to its number of `parameters`."""

    def size(hidden: int) -> int:
        return parameters_of(LSTMConfig(vocab_size, width, hidden, n_layers, context_length))

    low, high = 1, 16 * width
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return LSTMConfig(vocab_size, width, low, n_layers, context_length)
