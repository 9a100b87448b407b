"""The trunk that reads meaning: the lower layers of multilingual-e5-small with our low-rank changes, in plain torch.

    x = norm(word + position + type)
    each layer:  x = norm(x + O·attention(Q·x, K·x, V·x)),   x = norm(x + F₂·gelu(F₁·x))
    pooled = [mean over tokens, first token, greatest over tokens]
    logits = H_role · pooled + b_role

Every linear map is W + B·A, where W is frozen (Q4_0 in the fetched file) and A (rank × in), B (out × rank) are ours
(Hu et al. 2021, low-rank adaptation); norms and biases are replaced whole. Post-norm, exact gelu, positions from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from safety.base_weights import BaseWeights, dequantised

LAYERS = 6
"""So many of the twelve layers are used: half the cost, see MODEL_CARD.md."""
MAPS = ("q", "k", "v", "ao", "fi", "fo")
ROLES = ("prompt", "response")
Parameters = Mapping[str, Tensor]


def tokenizer(base: BaseWeights) -> Tokenizer:
    """The SentencePiece unigram tokenizer of the trunk."""
    pieces = list(zip(base.pieces, base.scores.astype(float).tolist(), strict=True))
    made = Tokenizer(models.Unigram(pieces, unk_id=base.unknown))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    return made


class Trunk:
    """The frozen weights. `adapted` values are passed in with every call, so that training owns them."""

    def __init__(self, base: BaseWeights, layers: int = LAYERS) -> None:
        self.shape, self.layers = base.shape, layers
        self.bos, self.eos, self.pad = base.bos, base.eos, base.pad
        width, inner = base.shape.width, base.shape.inner
        self._words = base.rows("emb.word", width)
        self.position = _tensor(base, "emb.pos").view(-1, width)
        self.type = _tensor(base, "emb.type").view(-1, width)[0]
        self.norm = (_tensor(base, "emb.ln.w"), _tensor(base, "emb.ln.b"))
        self.weights: dict[str, Tensor] = {}
        self.replaced: dict[str, Tensor] = {}
        """Biases and norms as the trunk has them: where the changed ones start from."""
        for layer in range(layers):
            for name in MAPS:
                out = inner if name == "fi" else width
                self.weights[f"l{layer}.{name}"] = _tensor(base, f"l{layer}.{name}.w").view(out, -1)
                self.replaced[f"l{layer}.{name}.b"] = _tensor(base, f"l{layer}.{name}.b")
            for name in ("aln", "oln"):
                for part in ("w", "b"):
                    self.replaced[f"l{layer}.{name}.{part}"] = _tensor(base, f"l{layer}.{name}.{part}")

    def embed(self, ids: Tensor) -> Tensor:
        """(batch, length) ids → (batch, length, width); what the first layer reads."""
        return self.placed(*self.words(ids))

    def words(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, length) ids → the vectors of the different ones (distinct, width), and which of these stands where (batch, length)."""
        distinct, place = torch.unique(ids, return_inverse=True)
        return torch.from_numpy(dequantised(self._words[distinct.numpy()])), place

    def placed(self, words: Tensor, place: Tensor) -> Tensor:
        """What `words` gives → (batch, length, width), with what tells the positions apart."""
        x = words[place] + self.position[: place.shape[1]] + self.type
        return F.layer_norm(x, (self.shape.width,), *self.norm, self.shape.epsilon)


def encode(trunk: Trunk, p: Parameters, x: Tensor, mask: Tensor, dropped: float = 0.0) -> Tensor:
    """Embedded tokens (batch, length, width) and mask (batch, length) of what is no padding → the last layer's output. `dropped`: the
    share of their inputs that the low-rank changes do without while they learn."""
    batch, length, width = x.shape
    heads = trunk.shape.heads
    bias = torch.zeros(batch, 1, 1, length).masked_fill(~mask[:, None, None], -math.inf)

    def linear(value: Tensor, name: str) -> Tensor:
        out = F.linear(value, trunk.weights[name], p[f"{name}.b"])
        return out + F.linear(F.linear(F.dropout(value, dropped), p[f"{name}.A"]), p[f"{name}.B"])

    def norm(value: Tensor, name: str) -> Tensor:
        return F.layer_norm(value, (width,), p[f"{name}.w"], p[f"{name}.b"], trunk.shape.epsilon)

    for i in range(trunk.layers):
        at = f"l{i}."
        q, k, v = (linear(x, at + name).view(batch, length, heads, -1).transpose(1, 2) for name in "qkv")
        with torch.autocast("cpu", enabled=False):  # in bfloat16 its gradient takes longer than everything else together
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        x = norm(x + linear(mixed, at + "ao"), at + "aln")
        x = norm(x + linear(F.gelu(linear(x, at + "fi")), at + "fo"), at + "oln")
    return x


def pool(x: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, length, width) → (batch, 3 · width): mean, first token, greatest. Without a mask nothing is padding."""
    if mask is None:
        return torch.cat([x.sum(1) / x.shape[1], x[:, 0], x.amax(1)], 1)
    keep = mask[..., None]
    mean = (x * keep).sum(1) / keep.sum(1)
    return torch.cat([mean, x[:, 0], x.masked_fill(~keep, -math.inf).amax(1)], 1)


def initial(trunk: Trunk, outputs: int, rank: int, seed: int) -> dict[str, Tensor]:
    """Parameters that change nothing yet: A random, B zero, norms and biases as they are, heads zero."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: value.clone() for name, value in trunk.replaced.items()}
    for name, weight in trunk.weights.items():
        made[f"{name}.A"] = torch.randn(rank, weight.shape[1], generator=generator) / math.sqrt(weight.shape[1])
        made[f"{name}.B"] = torch.zeros(weight.shape[0], rank)
    for role in ROLES:
        made[f"head.{role}.w"] = torch.zeros(outputs, 3 * trunk.shape.width)
        made[f"head.{role}.b"] = torch.full((outputs,), -2.0)
    return made


def pad(batch: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Token ids of several texts as one (batch, longest) tensor, and the mask of what is no padding."""
    longest = max(map(len, batch))
    ids = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in batch])
    return ids, torch.tensor([[i < len(row) for i in range(longest)] for row in batch])


def by_length(lengths: Iterable[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, each of at most `budget` tokens with its padding."""
    batches: list[list[int]] = []
    for index, length in sorted(enumerate(lengths), key=lambda item: (item[1], item[0])):
        if batches and (len(batches[-1]) + 1) * length <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _tensor(base: BaseWeights, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(base.tensor(name)))
