"""Choosing the next token, without a random generator: noise is a hash of (seed, step, token), so any reply can be replayed.

Adding Gumbel noise to log-probabilities and taking the largest draws from the distribution exactly (the Gumbel-max trick, Gumbel 1954;
Maddison et al. 2014, arXiv:1411.0030). Here the noise of a candidate is −log(−log u) with u from SHA-256(seed, step, token id): the same
on every machine, whatever else was sampled before.

Order, as in llama.cpp: repetition penalty → top-k → top-p → min-p → temperature → draw.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.lm.topk import highest, likeliest
from assistant.turn import Sampling

NAME = "gumbel-sha256/2"  # written into the ledger; change it when the arithmetic changes
HEAD = 256
"""Truncation first looks at this many of the likeliest tokens; only a flatter distribution makes it sort the whole vocabulary."""
PENALTY_WINDOW = 64
"""The repetition penalty looks at this many tokens of the reply before the new one; never at the prompt, whose words a reply needs."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The candidates that survived truncation, likeliest first: ids and penalised logits."""

    ids: Tensor  # (n,) int64
    logits: Tensor  # (n,) float32


def gumbel(seed: int, step: int, token: int) -> float:
    """Standard Gumbel noise of one candidate at one step."""
    digest = hashlib.sha256(struct.pack("<QQQ", seed, step, token)).digest()
    u = (int.from_bytes(digest[:8], "little") + 0.5) / 2**64
    return -math.log(-math.log(u))


def truncate(logits: Tensor, reply: Sequence[int], sampling: Sampling, known: Kept | None = None) -> Kept:
    """Apply the repetition penalty for the `reply` so far to `logits` (V,), then top-k, top-p and min-p. At least one candidate is kept.

    known: the likeliest few of `logits`, where they have been looked up already.
    """
    penalised = sampling.repetition_penalty != 1.0 and bool(reply)
    if penalised:
        seen = torch.tensor(sorted(set(reply[-PENALTY_WINDOW:])), device=logits.device)
        logits = logits.clone()
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
    if sampling.temperature == 0:
        if known is not None and not penalised and known.logits[0] > known.logits[1]:
            return Kept(known.ids[:1], known.logits[:1])
        best = torch.tensor([highest(logits)], device=logits.device)
        return Kept(best, logits[best])
    k = min(sampling.top_k or len(logits), len(logits))
    if sampling.top_p == 1 and sampling.min_p == 0:
        values, ids = likeliest(logits, k)
        return Kept(ids, values)
    whole = k == len(logits)
    size = min(k, HEAD)
    total = torch.logsumexp(logits, 0) if whole else None  # top-p and min-p look at what top-k left
    while True:
        values, ids = likeliest(logits, size) if size < len(logits) else torch.sort(logits, descending=True, stable=True)
        if total is None:
            total = torch.logsumexp(values if size == k else torch.topk(logits, k).values, 0)
        p = torch.exp(values - total)
        # keep a token while the probability before it is below top_p
        keep = (p.cumsum(0) - p < sampling.top_p) & (p >= sampling.min_p * p[0])
        keep[0] = True
        n = int(keep.sum())  # both conditions hold for a prefix
        if n < size or size == k:
            break
        size = k
    values, ids = values[:n], ids[:n]
    return Kept(ids, values)


def draw(kept: Kept, sampling: Sampling, step: int) -> int:
    """The chosen token: the largest of logit / temperature + noise. The seed must be set unless the temperature is 0."""
    if sampling.temperature == 0:
        return int(kept.ids[0])
    assert sampling.seed is not None
    ids: list[int] = kept.ids.tolist()
    noise = torch.tensor([gumbel(sampling.seed, step, i) for i in ids], dtype=torch.float64)
    return ids[int((kept.logits.double().cpu() / sampling.temperature + noise).argmax())]
