"""Which stored tensors make up each parameter of a `Transformer`. The names are GGUF's; a directory's are translated to them.

Queries, keys and values stand in one matrix here, and so do gate and up. Rows that are turned by their position are kept with rotary
partners side by side (0, 1), (2, 3) …; most files store the second partner d/2 rows further on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.lm.config import Config


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor. `heads`: of how many heads its rows are turned by their position (0: not at all)."""

    name: str
    shape: tuple[int, ...]
    heads: int = 0


def model_parts(c: Config) -> dict[str, tuple[Part, ...]]:
    """The parameters outside the blocks: parameter name → the tensors that are stacked to give it."""
    parts: dict[str, tuple[Part, ...]] = {
        "embedding.weight": (Part("token_embd.weight", (c.vocab_size, c.width)),),
        "norm": (Part("output_norm.weight", (c.width,)),),
    }
    if c.layer_norm:
        parts["norm_bias"] = (Part("output_norm.bias", (c.width,)),)
    if c.learned_positions:
        parts["positions.weight"] = (Part("position_embd.weight", (c.context_length, c.width)),)
    if not c.tied:
        parts["head.weight"] = (Part("output.weight", (c.vocab_size, c.width)),)
    return parts


def block_parts(c: Config) -> dict[str, tuple[Part, ...]]:
    """The parameters of one block; the names lack the block's prefix."""
    d, q, kv = c.head_width, c.n_heads, c.n_kv_heads
    turned = not c.learned_positions
    projections = (("attn_q", q, q if turned else 0), ("attn_k", kv, kv if turned else 0), ("attn_v", kv, 0))
    ffn = ("ffn_gate", "ffn_up") if c.gated else ("ffn_up",)
    parts: dict[str, tuple[Part, ...]] = {
        "attention_norm": (Part("attn_norm.weight", (c.width,)),),
        "ffn_norm": (Part("ffn_norm.weight", (c.width,)),),
        "qkv.weight": tuple(Part(f"{n}.weight", (count * d, c.width), heads) for n, count, heads in projections),
        "out.weight": (Part("attn_output.weight", (c.width, q * d)),),
        "gate_up.weight": tuple(Part(f"{n}.weight", (c.ffn_width, c.width)) for n in ffn),
        "down.weight": (Part("ffn_down.weight", (c.width, c.ffn_width)),),
    }
    if c.qkv_bias:
        parts["qkv.bias"] = tuple(Part(f"{n}.bias", (count * d,), heads) for n, count, heads in projections)
    if c.out_bias:
        parts["out.bias"] = (Part("attn_output.bias", (c.width,)),)
    if c.ffn_bias:
        parts["gate_up.bias"] = tuple(Part(f"{n}.bias", (c.ffn_width,)) for n in ffn)
        parts["down.bias"] = (Part("ffn_down.bias", (c.width,)),)
    if c.layer_norm:
        parts["attention_norm_bias"] = (Part("attn_norm.bias", (c.width,)),)
        parts["ffn_norm_bias"] = (Part("ffn_norm.bias", (c.width,)),)
    if c.qk_norm:
        parts["q_norm"] = (Part("attn_q_norm.weight", (d,), int(turned)),)
        parts["k_norm"] = (Part("attn_k_norm.weight", (d,), int(turned)),)
    if c.post_norms:
        parts["post_attention_norm"] = (Part("post_attention_norm.weight", (c.width,)),)
        parts["post_ffn_norm"] = (Part("post_ffw_norm.weight", (c.width,)),)
    return parts


def is_norm(parameter: str) -> bool:
    """Whether a parameter is the gain or bias of a norm, which always stays float32."""
    return "norm" in parameter


def pairing(part: Part, head_width: int) -> Tensor | None:
    """Where each row comes from, when its rotary partner lies d/2 further on: 0, d/2, 1, d/2 + 1, … in every head. None: it stays."""
    if not part.heads:
        return None
    pair = torch.arange(head_width).view(2, head_width // 2).t().flatten()
    return (torch.arange(part.heads).unsqueeze(1) * head_width + pair).flatten()
