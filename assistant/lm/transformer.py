"""The Transformer, written out: a decoder-only language model in the Llama shape (Touvron et al. 2023, arXiv:2302.13971).

    h₀ = E[ids]                                        embedding                                   (B, L, D)
    for each block:
        h = h + Wₒ · attention(norm(h))                who should I listen to?
        h = h + W_down · (silu(W_gate · norm(h)) ⊙ (W_up · norm(h)))    what do I make of it?  (SwiGLU, arXiv:2002.05202)
    logits = E · norm(h)                               one score per vocabulary entry             (B, L, V)

What other families do otherwise (Qwen, Gemma 3, GPT-2) is a flag of `Config`, and an `if` here. This dense form serves prefill, training
and gradients; `decode.py` is the same arithmetic for one token at a time. Everything here works on ids and tensors: it knows no text, no
chat, no safety.
Shapes: B batch, L new positions, T all positions (cached + new), D width, H heads, K key-value heads, d head width.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm import fused
from assistant.lm.config import Config as Config


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
    if weight.requires_grad and fused.suits(x):
        return fused.rms_norm(x, weight, eps)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """RMSNorm, or with a bias LayerNorm: the mean is taken away first (arXiv:1607.06450)."""
    return rms_norm(x, weight, eps) if bias is None else F.layer_norm(x, weight.shape, weight, bias, eps)


def rotary_table(config: Config, length: int, device: torch.device | str = "cpu", *, local: bool = False) -> Tensor:
    """(length, d/2, 2): cos and sin of position · base^(−2i/d), the angle by which pair i is turned at each position.

    `local`: for layers with a window, which may have a base of their own and no scaling.
    """
    base = (local and config.local_rope_base) or config.rope_base
    frequencies = base ** (-torch.arange(0, config.head_width, 2, dtype=torch.float64) / config.head_width)
    scaling = None if local and config.local_rope_base else config.rope_scaling
    if scaling is not None:
        turns = [base ** (-i / config.head_width) for i in range(0, config.head_width, 2)]  # the same, as Python numbers
        frequencies = frequencies / torch.tensor(scaling.divisors(turns), dtype=torch.float64)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    table = torch.stack([angles.cos(), angles.sin()], -1)
    return (table if scaling is None else table * scaling.magnitude).float().to(device)


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Turn each pair (x₂ᵢ, x₂ᵢ₊₁) of x (B, heads, L, d) by its angle: then q·k depends on their distance only (RoPE, arXiv:2104.09864)."""
    a, b = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = cos_sin.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, softcap: float = 0.0) -> Tensor:
    """softmax(Q Kᵀ / √d) V, q (B, H, L, d) and k, v (B, K, T, d) → (B, H, L, d).

    Each query head shares its keys with H/K − 1 others (arXiv:2305.13245).
    """
    if mask is None and not softcap and q.requires_grad and q.shape == k.shape and q.shape[2] <= fused.SHORT and fused.suits(q):
        return fused.attend(q, k, v)
    if not softcap:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) / (math.sqrt(q.shape[-1]) * softcap))
    seen = causal(q.shape[2], k.shape[2], q.device) if mask is None else mask
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def causal(length: int, total: int, device: torch.device) -> Tensor:
    """(1, 1, L, T) True where one of the last L of T positions may look: at itself and at what came before."""
    rows = torch.arange(total - length, total, device=device).unsqueeze(1)
    return (torch.arange(total, device=device) <= rows).view(1, 1, length, total)


def within(window: int, mask: Tensor | None, positions: Tensor) -> Tensor:
    """`mask` (B, 1, L, T) without the keys that are `window` positions or more before their query; positions (B, L).

    What is in a cache stands at 0 … T − L − 1.
    """
    batch, length = positions.shape
    total = length if mask is None else mask.shape[-1]
    earlier = torch.arange(total - length, device=positions.device).expand(batch, -1)
    near = positions.unsqueeze(2) - torch.cat([earlier, positions], 1).unsqueeze(1) < window
    return near.unsqueeze(1) & (causal(length, total, positions.device) if mask is None else mask)


class Block(nn.Module):
    """One layer: attention, then a feed-forward network, each added to what came in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        d, heads, kv = c.head_width, c.n_heads, c.n_kv_heads

        def gains(size: int, used: bool = True, start: float = 1.0) -> nn.Parameter | None:
            return nn.Parameter(torch.full((size,), start)) if used else None

        self.attention_norm = nn.Parameter(torch.ones(c.width))
        self.attention_norm_bias = gains(c.width, c.layer_norm, 0.0)
        self.qkv = nn.Linear(c.width, (heads + 2 * kv) * d, bias=c.qkv_bias)  # W_q, W_k, W_v in one matrix
        self.out = nn.Linear(heads * d, c.width, bias=c.out_bias)
        self.post_attention_norm = gains(c.width, c.post_norms)
        self.ffn_norm = nn.Parameter(torch.ones(c.width))
        self.ffn_norm_bias = gains(c.width, c.layer_norm, 0.0)
        self.gate_up = nn.Linear(c.width, (1 + c.gated) * c.ffn_width, bias=c.ffn_bias)  # W_gate, W_up in one matrix
        self.down = nn.Linear(c.ffn_width, c.width, bias=c.ffn_bias)
        self.post_ffn_norm = gains(c.width, c.post_norms)
        if c.qk_norm:
            self.q_norm = nn.Parameter(torch.ones(d))
            self.k_norm = nn.Parameter(torch.ones(d))

    def forward(
        self, h: Tensor, cos_sin: Tensor | None, mask: Tensor | None, layer: int, cache: Cache | None, observer: Observer | None = None
    ) -> Tensor:
        """h (B, L, D) to h (B, L, D). `mask` (B, 1, L, T) is True where a query may look; None is plain causal."""
        c = self.config
        # Attention: softmax(Q Kᵀ / √d) V.
        x = linear(norm(h, self.attention_norm, self.attention_norm_bias, c.norm_eps), self.qkv)
        x = x.view(*h.shape[:2], -1, c.head_width)
        if self.training and cos_sin is not None and not c.qk_norm and fused.suits(x):
            q, k, v = fused.turned(x, cos_sin, c.n_heads)
        else:
            x = x.transpose(1, 2)  # (B, H + 2K, L, d)
            q, k, v = x[:, : c.n_heads], x[:, c.n_heads : -c.n_kv_heads], x[:, -c.n_kv_heads :]
            if c.qk_norm:
                q, k = rms_norm(q, self.q_norm, c.norm_eps), rms_norm(k, self.k_norm, c.norm_eps)
            if cos_sin is not None:
                q, k = rotate(q, cos_sin), rotate(k, cos_sin)
        if c.query_scale:
            q = q * (c.query_scale * math.sqrt(c.head_width))
        if cache is not None:
            k, v = cache.update(layer, k, v)
        if observer is not None:
            observer.attention(layer, q, k)
        heard = linear(attend(q, k, v, mask, c.attention_softcap).transpose(1, 2).flatten(-2), self.out)
        h = h + (heard if self.post_attention_norm is None else rms_norm(heard, self.post_attention_norm, c.norm_eps))
        # Feed-forward: the gate decides how much of each of the F features goes back into the stream.
        made = self.feed_forward(norm(h, self.ffn_norm, self.ffn_norm_bias, c.norm_eps))
        return h + (made if self.post_ffn_norm is None else rms_norm(made, self.post_ffn_norm, c.norm_eps))

    def feed_forward(self, x: Tensor) -> Tensor:
        """x (B, L, D) to (B, L, D): W_down (f(W_gate x) ⊙ W_up x), or W_down f(W_up x) without a gate."""
        features = linear(x, self.gate_up)
        if self.training and self.config.gated and self.config.activation == "silu" and fused.suits(features):
            return linear(fused.swiglu(features), self.down)
        gate, up = features.chunk(2, -1) if self.config.gated else (features, None)
        active = F.silu(gate) if self.config.activation == "silu" else F.gelu(gate, approximate="tanh")
        return linear(active if up is None else active * up, self.down)


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    """x Wᵀ + b, multiplied in the precision of the weights, returned in the precision of x (the residual stream stays float32).

    Whatever stands in the place of an `nn.Linear` (quantised weights, an adapter) multiplies by itself.
    """
    if type(layer) is not nn.Linear:
        y: Tensor = layer(x)
        return y
    return F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias).to(x.dtype)


class Transformer(nn.Module):
    """The whole model. `forward` returns hidden states; `logits` turns those wanted into scores over the vocabulary."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.positions = nn.Embedding(config.context_length, config.width) if config.learned_positions else None
        self.norm = nn.Parameter(torch.ones(config.width))
        self.norm_bias = nn.Parameter(torch.zeros(config.width)) if config.layer_norm else None
        self.head = self.embedding if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self.rotary: Tensor
        self.rotary_local: Tensor
        self.register_buffer("rotary", torch.empty(0), persistent=False)
        self.register_buffer("rotary_local", torch.empty(0), persistent=False)

    def cos_sin(self, length: int, *, local: bool = False) -> Tensor:
        """The rotary table for positions below `length`, computed once and kept; `local`: that of layers with a window."""
        name = "rotary_local" if local else "rotary"
        table: Tensor = getattr(self, name)
        if len(table) < length or table.device != self.norm.device:
            table = rotary_table(self.config, max(length, 512, 2 * len(table)), self.norm.device, local=local)
            setattr(self, name, table)
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
        """Hidden states (B, L, D) after the last norm, for `ids` (B, L) or `embeddings` (B, L, D: what `self.embedding` gives).

        positions: (B, L), by default 0 … L−1, with a mask all below T. mask: (B, 1, L, T) True where a query may look, by default causal
        (which needs an empty cache).
        """
        c = self.config
        h = self.embedding(ids).float() if embeddings is None else embeddings
        end = h.shape[1] if mask is None else mask.shape[-1]  # known without waiting for the device
        if positions is None:
            positions = torch.arange(h.shape[1], device=h.device).expand(h.shape[:2])
        elif mask is None:
            end = int(positions.max()) + 1
        if c.embedding_scale != 1.0:
            h = h * c.embedding_scale
        turns: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.positions is not None:
            h = h + self.positions(positions).float()
        else:
            turn = self.cos_sin(end)[positions].unsqueeze(1)  # (B, 1, L, d/2, 2)
            turns = (turn, self.cos_sin(end, local=True)[positions].unsqueeze(1) if c.local_rope_base else turn)
        near = within(c.window, mask, positions) if c.windowed and end > c.window else mask
        for layer, block in enumerate(self.blocks):
            local = c.is_windowed(layer)
            h = block(h, turns[local], near if local else mask, layer, cache, observer)
            if observer is not None:
                observer.hidden(layer, h)
        return self.last_norm(h)

    def last_norm(self, h: Tensor) -> Tensor:
        """The norm before the output matrix."""
        return norm(h, self.norm, self.norm_bias, self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) to float32 scores (…, V): how well each vocabulary entry's vector matches the state."""
        weight, cap = self.head.weight, self.config.logit_softcap
        scores = F.linear(hidden.to(weight.dtype), weight).float()
        return cap * torch.tanh(scores / cap) if cap else scores
