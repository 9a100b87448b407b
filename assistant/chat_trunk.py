"""The chat model's own trunk as a reader of what people write, for `pellucid safety compare`: low-rank changes in every matrix of its
blocks, frozen weights in bfloat16. It is a peer of the guard's encoder and serves nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from assistant.lm import lora
from safety.finetune import PROMPT, TOKENS

if TYPE_CHECKING:
    from assistant.lm.engine import Engine


class ChatStudent:
    """A `safety.comparison.Student` on a loaded dense model, which is changed by it."""

    def __init__(self, engine: Engine, rank: int, seed: int) -> None:
        """Raises UsageError for a rank below 1."""
        self.name = f"{engine.info.name}, all {engine.model.config.n_layers} layers"
        self._model, self._tokenizer = engine.model, engine.tokenizer
        self.width = 3 * engine.model.config.width
        lora.prepare(self._model, rank, float(rank), lora.TARGETS, seed)
        self._end = self._tokenizer.encode("\n")[:1]

    def ids(self, text: str, prompt: str) -> list[int]:
        """As many tokens as the encoder reads, the prompt before the reply, a line's end behind each."""
        before = [*self._tokenizer.encode(prompt)[:PROMPT], *self._end] if prompt else []
        return [*before, *self._tokenizer.encode(text)[: TOKENS - len(before) - 1], *self._end]

    def pooled(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(texts, 3 · width): mean, last token, greatest. What stands behind a text is not seen by it: attention is causal."""
        lengths = torch.tensor([len(row) for row in ids])
        longest = int(lengths.max())
        x = self._model(torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids]))
        keep = (torch.arange(longest) < lengths[:, None])[..., None]
        mean = (x * keep).sum(1) / lengths[:, None]
        return torch.cat([mean, x[torch.arange(len(x)), lengths - 1], x.masked_fill(~keep, -torch.inf).amax(1)], 1)

    def parameters(self) -> list[Tensor]:
        """The low-rank changes."""
        return [p for p in self._model.parameters() if p.requires_grad]
