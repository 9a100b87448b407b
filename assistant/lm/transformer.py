"""The Transformer, written out: a decoder-only language model in the Llama shape (Touvron et al. 2023, arXiv:2302.13971).

    h₀ = E[ids]                                        embedding                                   (B, L, D)
    for each block:
        h = h + Wₒ · attention(norm(h))                who should I listen to?
        h = h + W_down · (silu(W_gate · norm(h)) ⊙ (W_up · norm(h)))    what do I make of it?  (SwiGLU, arXiv:2002.05202)
    logits = E · norm(h)                               one score per vocabulary entry             (B, L, V)

This dense form serves prefill, training and gradients; `decode.py` is the same arithmetic for one token at a time. Everything
here works on ids and tensors: it knows no text, no chat, no safety.
Shapes: B batch, L new positions, T all positions (cached + new), D width, H heads, K key-value heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Config:
    """The numbers that define a model, under the names of the papers."""

    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    ffn_width: int
    context_length: int
    head_width: int = 0
    """0: width / n_heads."""
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    """Qwen2 adds a bias to the query, key and value projections."""
    qk_norm: bool = False
    """Qwen3 normalises each query and key head."""
    tied: bool = True
    """Whether the output matrix is the embedding matrix."""

    def __post_init__(self) -> None:
        if not self.head_width:
            object.__setattr__(self, "head_width", self.width // self.n_heads)
        sizes = (
            self.vocab_size,
            self.width,
            self.n_layers,
            self.n_heads,
            self.n_kv_heads,
            self.ffn_width,
            self.context_length,
            self.head_width,
        )
        if min(sizes) < 1:
            raise ValueError("every size of a model must be at least 1")
        if self.n_heads % self.n_kv_heads or self.head_width % 2:
            raise ValueError(f"{self.n_heads} heads of width {self.head_width} do not fit {self.n_kv_heads} key-value heads")


class Cache(Protocol):
    """Keys and values of earlier positions."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, K, L, d) of one layer; returns those of all positions (B, K, T, d)."""
        ...


class Observer(Protocol):
    """Looks on while a text is read: for probes, lenses and attention weights."""

    def attention(self, layer: int, q: Tensor, k: Tensor) -> None:
        """The turned queries (B, H, L, d) and keys (B, K, T, d) of a layer."""
        ...

    def hidden(self, layer: int, h: Tensor) -> None:
        """The residual stream (B, L, D) after a layer."""
        ...


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + ε) ⊙ weight: every vector gets length √D, then each coordinate its own gain (arXiv:1910.07467)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotary_table(config: Config, length: int, device: torch.device | str = "cpu") -> Tensor:
    """(length, d/2, 2): cos and sin of position · base^(−2i/d), the angle by which pair i is turned at each position."""
    frequencies = config.rope_base ** (-torch.arange(0, config.head_width, 2, dtype=torch.float64) / config.head_width)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    return torch.stack([angles.cos(), angles.sin()], -1).float().to(device)


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Turn each pair (x₂ᵢ, x₂ᵢ₊₁) of x (B, heads, L, d) by its angle: then q·k depends on their distance only (RoPE, arXiv:2104.09864)."""
    a, b = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = cos_sin.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Block(nn.Module):
    """One layer: attention, then a feed-forward network, each added to what came in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        d, heads, kv = config.head_width, config.n_heads, config.n_kv_heads
        self.attention_norm = nn.Parameter(torch.ones(config.width))
        self.qkv = nn.Linear(config.width, (heads + 2 * kv) * d, bias=config.qkv_bias)  # W_q, W_k, W_v in one matrix
        self.out = nn.Linear(heads * d, config.width, bias=False)
        self.ffn_norm = nn.Parameter(torch.ones(config.width))
        self.gate_up = nn.Linear(config.width, 2 * config.ffn_width, bias=False)  # W_gate, W_up in one matrix
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)
        if config.qk_norm:
            self.q_norm = nn.Parameter(torch.ones(d))
            self.k_norm = nn.Parameter(torch.ones(d))

    def forward(
        self, h: Tensor, cos_sin: Tensor, mask: Tensor | None, layer: int, cache: Cache | None, observer: Observer | None = None
    ) -> Tensor:
        """h (B, L, D) to h (B, L, D). `mask` (B, 1, L, T) is True where a query may look; None is plain causal."""
        c = self.config
        # Attention: softmax(Q Kᵀ / √d) V. Each of the H query heads shares its keys with H/K − 1 others (arXiv:2305.13245).
        x = linear(rms_norm(h, self.attention_norm, c.norm_eps), self.qkv)
        x = x.view(*h.shape[:2], -1, c.head_width).transpose(1, 2)  # (B, H + 2K, L, d)
        q, k, v = x[:, : c.n_heads], x[:, c.n_heads : -c.n_kv_heads], x[:, -c.n_kv_heads :]
        if c.qk_norm:
            q, k = rms_norm(q, self.q_norm, c.norm_eps), rms_norm(k, self.k_norm, c.norm_eps)
        q, k = rotate(q, cos_sin), rotate(k, cos_sin)
        if cache is not None:
            k, v = cache.update(layer, k, v)
        if observer is not None:
            observer.attention(layer, q, k)
        heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        h = h + linear(heard.transpose(1, 2).flatten(-2), self.out)
        # Feed-forward: the gate decides how much of each of the F features goes back into the stream.
        gate, up = linear(rms_norm(h, self.ffn_norm, c.norm_eps), self.gate_up).chunk(2, -1)
        return h + linear(F.silu(gate) * up, self.down)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """x Wᵀ + b, multiplied in the precision of the weights, returned in the precision of x (the residual stream stays float32)."""
    return F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias).to(x.dtype)


class Transformer(nn.Module):
    """The whole model. `forward` returns hidden states; `logits` turns those wanted into scores over the vocabulary."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        self.head = self.embedding if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.rotary: Tensor
        self.register_buffer("rotary", torch.empty(0), persistent=False)

    def cos_sin(self, length: int) -> Tensor:
        """The rotary table for positions below `length`, computed once and kept."""
        table = self.rotary
        if len(table) < length or table.device != self.norm.device:
            table = self.rotary = rotary_table(self.config, max(length, 512, 2 * len(table)), self.norm.device)
        return table

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        observer: Observer | None = None,
    ) -> Tensor:
        """Hidden states (B, L, D) after the last norm, for `ids` (B, L) or `embeddings` (B, L, D).

        positions: (B, L), by default 0 … L−1. mask: (B, 1, L, T) True where a query may look, by default causal
        (which needs an empty cache).
        """
        h = self.embedding(ids).float() if embeddings is None else embeddings
        if positions is None:
            positions = torch.arange(h.shape[1], device=h.device).expand(h.shape[:2])
        cos_sin = self.cos_sin(int(positions.max()) + 1)[positions].unsqueeze(1)  # (B, 1, L, d/2, 2)
        for layer, block in enumerate(self.blocks):
            h = block(h, cos_sin, mask, layer, cache, observer)
            if observer is not None:
                observer.hidden(layer, h)
        return rms_norm(h, self.norm, self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) to float32 scores (…, V): how well each vocabulary entry's vector matches the state."""
        weight = self.head.weight
        return F.linear(hidden.to(weight.dtype), weight).float()
