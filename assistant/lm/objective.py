"""What training makes small: the mean surprise of the next token, −log softmax(E h_t)[x_{t+1}] (cross-entropy, in nats a token).

The scores (N, V) of a step are its largest tensor by far. Nothing but their gradient softmax(z) − onehot(x) is needed of them, so both
products of the backward pass are done at once, some tokens at a time: the whole matrix never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm.batches import IGNORE, Batch

SCORES = 1 << 23
"""Scores that are held at once: 32 megabytes. Fewer make the products slower, more only take memory."""
RARE = 1e-30
"""Below this a float32 probability loses digits."""


class LanguageModel(Protocol):
    """What can be trained: `Transformer` and `LSTM`."""

    head: nn.Module

    def __call__(self, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D)."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V)."""
        ...


class _Surprise(torch.autograd.Function):
    """Sum of −log p(target): hidden (N, D), weight (V, D), targets (N,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        exact = torch.float32 if hidden.device.type == "mps" else torch.float64  # MPS has no doubles
        total = hidden.new_zeros((), dtype=exact)
        rows = max(SCORES // len(weight), 64)
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows].unsqueeze(1)
            z = F.linear(h, weight)
            torch.softmax(z, 1, out=z)
            likely = z.gather(1, t)
            logs = likely.log()
            if (rare := (likely < RARE).squeeze(1)).any():  # too small to have all its digits
                logs[rare] = torch.log_softmax(F.linear(h[rare], weight), 1).gather(1, t[rare])
            total -= logs.sum(dtype=exact)
            if to_hidden is None and to_weight is None:
                continue
            z.scatter_(1, t, likely - 1)  # softmax − onehot
            if to_hidden is not None:
                torch.mm(z, weight, out=to_hidden[start : start + rows])
            if to_weight is not None:
                to_weight.addmm_(z.t(), h)
        ctx.save_for_backward(*[g for g in (to_hidden, to_weight) if g is not None])
        return total.float()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        saved = iter(ctx.saved_tensors)
        to_hidden = next(saved) * outer[0] if ctx.needs_input_grad[0] else None
        to_weight = next(saved) * outer[0] if ctx.needs_input_grad[1] else None
        return to_hidden, to_weight, None


def surprise(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Σ −log p(target), in nats, of hidden (N, D), weight (V, D) and targets (N,)."""
    if weight.dtype is torch.float32 and hidden.dtype is torch.float32 and not torch.is_autocast_enabled(hidden.device.type):
        total: Tensor = _Surprise.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
        return total
    return F.cross_entropy(F.linear(hidden.to(weight.dtype), weight).float(), targets, reduction="sum")


class Objective(nn.Module):
    """A model with its loss, so that everything a step computes happens in one `forward` (what wrappers of modules rely on)."""

    def __init__(self, model: nn.Module, words: Sequence[int] = ()) -> None:
        """`words`: while training, only these entries of the vocabulary compete; the output matrix must not be trained then. A step whose
        replies cost more in scores than in blocks becomes cheap; what is evaluated always competes with the whole vocabulary."""
        super().__init__()
        self.model = model
        self.words: Tensor | None = None
        if words:
            matrix: Tensor = cast(Any, model).head.weight
            chosen = torch.tensor(sorted(words), device=matrix.device)
            self.places = torch.full((len(matrix),), -1, device=matrix.device)
            self.places[chosen] = torch.arange(len(chosen), device=matrix.device)
            self.words = matrix.detach()[chosen]

    def forward(self, batch: Batch, last: bool = False) -> Tensor:
        """The summed surprise of all targets; or with `last`, the scores (B, V) after the last token."""
        model: Any = self.model
        hidden = model(batch.ids, positions=batch.positions, mask=batch.mask())
        if last:
            scores: Tensor = model.logits(hidden[:, -1])
            return scores
        wanted = batch.targets != IGNORE
        if wanted.all():
            hidden, targets = hidden.flatten(0, 1), batch.targets.flatten()
        else:
            hidden, targets = hidden[wanted], batch.targets[wanted]
        if self.words is not None and self.training:
            return surprise(hidden, self.words, self.places[targets])
        return surprise(hidden, model.head.weight, targets)
