"""What explanations and replays need of a model: how likely was this reply, had parts of the prompt not been there?

Deleting a prompt token is done by hiding its key from every later position and closing the gap in the positions. That equals really
deleting it (the attention sums and the rotary angles are the same), but all variants keep one rectangular shape and go through the model as
one batch. What comes before the first deleted token of a batch is taken from one pass over the whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm.config import Config
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
        self.ids = torch.tensor([*prompt_ids, *reply_ids]).to(self.device)
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

    @property
    def prompt_ids(self) -> Tensor:
        """(P,) the prompt."""
        return self.ids[: self.prompt_length]

    def log_probs_of(self, prompt_ids: Tensor) -> Tensor:
        """prompt_ids (B, P) in place of the real ones → (B, T), differentiable with respect to the embedding's output."""
        reply = self.ids[self.prompt_length : -1].expand(len(prompt_ids), -1)
        # the reply's vectors do not pass through the layer, so that a hook on it sees and replaces the prompt's alone
        after = F.embedding(reply, self.model.embedding.weight)
        hidden = self.model(embeddings=torch.cat([self.model.embedding(prompt_ids), after], 1).float())
        self.forwards += len(prompt_ids)
        return self._pick(hidden[:, self.prompt_length - 1 :])

    @torch.inference_mode()
    def attention(self, first: int = 0) -> Tensor:
        """(layers, H, P + T − 1 − first, P + T − 1): the attention weights of the positions from `first` on."""
        seen = Attention(self.model.config, first)
        self.model(self.ids[:-1].unsqueeze(0), observer=seen)
        self.forwards += 1
        return torch.stack(seen.weights)

    def listening(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """See `explain.target.Attentive`; all layers are looked at."""
        c, at = self.model.config, [self.prompt_length - 1 + row for row in rows]
        seen, values = Attention(c, self.prompt_length - 1), Values()
        with torch.enable_grad():
            hidden = self.model(self.ids[:-1].unsqueeze(0), observer=seen, cache=values)[:, at]
            logits = self.model.logits(hidden)[0]
            target = self.ids[[self.prompt_length + row for row in rows]]
            total = (logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)).sum()
            gradients = torch.autograd.grad(total, values.followed)
        self.forwards += 1
        pulls = [(v.detach() * g).sum(-1)[0] for v, g in zip(values.followed, gradients, strict=True)]
        lengths = torch.stack(values.lengths).repeat_interleave(c.n_heads // c.n_kv_heads, 1)
        return torch.stack(seen.weights)[:, :, list(rows)], lengths, torch.stack(pulls).float()

    @torch.inference_mode()
    def lens(self, token: int, top: int = 5) -> list[list[tuple[int, float]]]:
        """What each layer would already say at the place of reply token `token`: its likeliest ids and their probabilities.

        The residual stream after each layer through the last norm and the output matrix (the logit lens, nostalgebraist 2020): a view of
        the inside, not an attribution.
        """
        seen = Hidden(self.prompt_length - 1 + token)
        self.model(self.ids[: self.prompt_length + token].unsqueeze(0), observer=seen)
        self.forwards += 1
        states = self.model.last_norm(torch.stack(seen.states))
        p, ids = torch.softmax(self.model.logits(states), -1).topk(top)
        return [list(zip(i, q, strict=True)) for i, q in zip(ids.tolist(), p.tolist(), strict=True)]

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


class Attention:
    """An `Observer` that keeps each layer's attention weights (H, L − first, L) for the queries from `first` on: causal, nothing hidden."""

    def __init__(self, config: Config, first: int) -> None:
        self.config, self.first = config, first
        self.weights: list[Tensor] = []

    def attention(self, layer: int, q: Tensor, k: Tensor) -> None:
        """Softmax of the scaled products, as `transformer.attend` has it."""
        asked = q[0, :, self.first :].detach()
        keys = k[0].detach().repeat_interleave(q.shape[1] // k.shape[1], 0)
        scores = asked @ keys.transpose(1, 2) / q.shape[-1] ** 0.5
        if cap := self.config.attention_softcap:
            scores = cap * torch.tanh(scores / cap)
        back = torch.arange(self.first, q.shape[2], device=q.device).unsqueeze(1) - torch.arange(k.shape[2], device=q.device)
        hidden = back < 0
        if self.config.is_windowed(layer):
            hidden |= back >= self.config.window
        self.weights.append(scores.masked_fill(hidden, -torch.inf).softmax(-1))

    def hidden(self, layer: int, h: Tensor) -> None:
        """Not looked at."""


class Values:
    """A `Cache` of one pass that keeps the value vectors of each layer (1, K, L, d) for their gradients, and their lengths (K, L)."""

    def __init__(self) -> None:
        self.lengths: list[Tensor] = []
        self.followed: list[Tensor] = []

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`Cache.update`: there are no earlier positions."""
        self.lengths.append(v.detach().float().norm(dim=-1)[0])
        self.followed.append(v if v.requires_grad else v.detach().requires_grad_())
        return k, self.followed[-1]


class Hidden:
    """An `Observer` that keeps the residual stream (D,) at one position after each layer."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.states: list[Tensor] = []

    def attention(self, layer: int, q: Tensor, k: Tensor) -> None:
        """Not looked at."""

    def hidden(self, layer: int, h: Tensor) -> None:
        """Keep it."""
        self.states.append(h[0, self.position])
