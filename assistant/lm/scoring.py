"""What explanations and replays need of a model: how likely was this reply, had parts of the prompt not been there?

Deleting a prompt token is done by hiding its key from every later position and closing the gap in the positions. That equals really
deleting it (the attention sums and the rotary angles are the same), but all variants keep one rectangular shape and go through the model as
one batch. What comes before the first deleted token of a batch is taken from one pass over the whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assistant.lm.kv_cache import Recording
from assistant.lm.transformer import Transformer

ROW_BYTES = 256 << 20
"""Logits held at once while scoring; more rows are taken one after another."""


class ReplyScorer:
    """One reply to one prompt. Satisfies `explain.target.Target`."""

    def __init__(self, model: Transformer, prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> None:
        if not prompt_ids or not reply_ids:
            raise ValueError("a prompt and a reply of at least one token each are needed")
        self.model = model
        self.device = model.norm.device
        self.prompt_length, self.reply_length = len(prompt_ids), len(reply_ids)
        self.ids = torch.tensor([*prompt_ids, *reply_ids], device=self.device)
        self._unchanged: Recording | None = None
        self.forwards = 0

    @property
    def embedding(self) -> nn.Module:
        """The layer that turns ids into vectors."""
        return self.model.embedding

    @torch.inference_mode()
    def log_probs(self, keep: Tensor) -> Tensor:
        """keep (B, P) bool: which prompt tokens are there → (B, T): log-probability of every reply token, in nats."""
        keep = keep.to(self.device, torch.bool)
        batch, (p, t) = len(keep), (self.prompt_length, self.reply_length)
        whole = torch.cat([keep, keep.new_ones(batch, t)], 1)  # (B, P + T); the last reply token is only a target
        removable = (~keep).any(0).nonzero()
        # everything before the first removed token is read once; the last kept token is never inside it
        start = max(int(removable[0]) - 1 if len(removable) else p - 1, 0)
        cache = self._unchanged_prompt().prefix(start)
        positions = (whole.long().cumsum(1) - 1).clamp_(min=0)
        ids = self.ids[start:-1].expand(batch, -1)
        length = p + t - 1
        query = torch.arange(start, length, device=self.device).view(1, -1, 1)
        key = torch.arange(length, device=self.device).view(1, 1, -1)
        # a query sees kept keys up to itself; itself always, so that no row of the softmax is empty
        mask = ((key <= query) & whole[:, None, :length]) | (key == query)
        hidden = self.model(ids, positions=positions[:, start:length], mask=mask.unsqueeze(1), cache=cache)
        self.forwards += batch
        # the first reply token is predicted from the last prompt token that is there
        last = (keep * torch.arange(p, device=self.device)).amax(1, keepdim=True)
        following = torch.arange(p, length, device=self.device).expand(batch, -1)
        at = torch.cat([last, following], 1).sub_(start).clamp_(min=0)
        rows = hidden.gather(1, at.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))  # (B, T, D)
        return torch.cat([self._pick(part) for part in rows.split(self._rows_at_once())])

    def log_probs_of(self, ids: Tensor) -> Tensor:
        """ids (B, P + T) in place of the real ones → (B, T), differentiable with respect to the embedding's output."""
        hidden = self.model(embeddings=self.model.embedding(ids[:, :-1]).float())
        self.forwards += len(ids)
        return self._pick(hidden[:, self.prompt_length - 1 :])

    def _pick(self, hidden: Tensor) -> Tensor:
        """(B, T, D) → log-probability of the reply's own tokens (B, T)."""
        logits = self.model.logits(hidden)
        target = self.ids[self.prompt_length :].expand(len(hidden), -1).unsqueeze(-1)
        return logits.gather(-1, target).squeeze(-1) - logits.logsumexp(-1)

    def _rows_at_once(self) -> int:
        return max(1, ROW_BYTES // (4 * self.reply_length * self.model.config.vocab_size))

    def _unchanged_prompt(self) -> Recording:
        if self._unchanged is None:
            self._unchanged = Recording()
            self.model(self.ids[: self.prompt_length].unsqueeze(0), cache=self._unchanged)
            self.forwards += 1
        return self._unchanged
