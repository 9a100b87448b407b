"""A model of the `transformers` library as a target: `attribute(TransformersTarget(model, prompt_ids, reply_ids), …)`.

Nothing of that library is imported: any module will do that takes `input_ids`, `attention_mask` and `position_ids`, returns an object with
`logits` (B, L, V), and has `get_input_embeddings()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class TransformersTarget:
    """One reply to one prompt. `Target` and `Differentiable`.

    The prompt's first token should be one that is always kept (role `format`): something must be left to predict from.
    """

    def __init__(self, model: Any, prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> None:
        if not prompt_ids or not reply_ids:
            raise ValueError("a prompt and a reply of at least one token each are needed")
        self.model = model.eval()
        self.prompt_length, self.reply_length = len(prompt_ids), len(reply_ids)
        self.ids = torch.tensor([*prompt_ids, *reply_ids], device=next(model.parameters()).device)
        self.forwards = 0

    @property
    def prompt_ids(self) -> Tensor:
        """(P,) the prompt."""
        return self.ids[: self.prompt_length]

    @property
    def embedding(self) -> nn.Module:
        """The layer that turns ids into vectors."""
        layer: nn.Module = self.model.get_input_embeddings()
        return layer

    @torch.inference_mode()
    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool → (B, T). Left-out tokens are hidden from attention and positions close the gap: as if deleted."""
        keep = keep.to(self.ids.device, torch.bool)
        p, t = self.prompt_length, self.reply_length
        whole = torch.cat([keep, keep.new_ones(len(keep), t - 1)], 1)
        positions = (whole.long().cumsum(1) - 1).clamp_(min=0)
        ids = self.ids[:-1].expand(len(keep), -1)
        logits = self.model(input_ids=ids, attention_mask=whole.long(), position_ids=positions).logits
        self.forwards += len(keep)
        last = (keep * torch.arange(p, device=ids.device)).amax(1, keepdim=True)  # the first token is predicted from the last one kept
        following = torch.arange(p, p + t - 1, device=ids.device).expand(len(keep), -1)
        at = torch.cat([last, following], 1).unsqueeze(-1).expand(-1, -1, logits.shape[-1])
        return self._pick(logits.gather(1, at))

    def log_probs_of(self, prompt_ids: Tensor) -> Tensor:
        """prompt_ids (B, P) in place of the real ones → (B, T), differentiable with respect to the embedding's output."""
        reply = self.ids[self.prompt_length : -1].expand(len(prompt_ids), -1)
        # `forward` alone for the reply: a hook on the layer sees and replaces the prompt's vectors only
        after = self.embedding.forward(reply)
        logits = self.model(inputs_embeds=torch.cat([self.embedding(prompt_ids), after], 1)).logits
        self.forwards += len(prompt_ids)
        return self._pick(logits[:, self.prompt_length - 1 :])

    def _pick(self, logits: Tensor) -> Tensor:
        target = self.ids[self.prompt_length :].expand(len(logits), -1).unsqueeze(-1)
        picked: Tensor = logits.float().log_softmax(-1).gather(-1, target)
        return picked.squeeze(-1)
