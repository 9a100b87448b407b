"""Reading a prompt: the arithmetic of `transformer.py` for a batch of one without gradients, laid out for the processor's matrix kernels.

In float32 the residual stream is kept feature-major, h (D, L). Then the two largest products of a block are W · x with the big matrix on
the left, which most CPU libraries multiply some 15 % faster at the length of a prompt than x · Wᵀ (`kernels.py` measures whether these
do), the residual sums happen inside the products, and everything between them is done in place. In bfloat16 the products are so quick
that what lies between them takes as long: the stream (L, D) stays float32, and everything else is done in as few passes as there can be.
Of the last block only the keys and values of all positions are needed, and what the last position makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm.kv_cache import KVCache
from assistant.lm.transformer import Block, Transformer, rms_norm

Read = Callable[[Transformer, Tensor, KVCache, Tensor | None], Tensor]


def reader(model: Transformer, *, columns: bool) -> Read | None:
    """The function here that is written for `model`: dense on the CPU, in the Llama shape. `columns`: whether this processor was measured
    to multiply float32 prompts faster feature-major."""
    qkv = cast(Block, model.blocks[0]).qkv
    if not (model.config.plain and model.norm.device.type == "cpu" and type(qkv) is nn.Linear):
        return None
    if qkv.weight.dtype is torch.bfloat16:
        return read_halves
    return read if columns and qkv.weight.dtype is model.embedding.weight.dtype is torch.float32 else None


@torch.inference_mode()
def read(model: Transformer, ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
    """Hidden state (D,) after the last of `ids` (L,), which follow what is in the cache; their keys and values are written, not counted.

    `mask` (1, 1, L, T) is True where a query may look; None is plain causal and needs an empty cache.
    """
    c, past, length = model.config, cache.length, len(ids)
    rows, ffn = (length, c.n_heads + 2 * c.n_kv_heads, c.head_width), c.ffn_width
    turn = torch.view_as_complex(model.cos_sin(past + length)[past : past + length]).unsqueeze(1)  # (L, 1, d/2)
    h = F.embedding(ids, model.embedding.weight).t().contiguous()  # (D, L)
    for layer, block in enumerate(cast("list[Block]", model.blocks)):
        x = F.linear(_normed(h, block.attention_norm, c.norm_eps).t(), block.qkv.weight, block.qkv.bias).view(rows)
        heard = _hear(x, block, layer, turn, cache, mask)
        if layer == c.n_layers - 1:
            h = h[:, -1:].contiguous()
        h.addmm_(block.out.weight, heard.t())
        x = torch.mm(block.gate_up.weight, _normed(h, block.ffn_norm, c.norm_eps))  # (2F, L)
        h.addmm_(block.down.weight, F.silu(x[:ffn], inplace=True).mul_(x[ffn:]))
    return rms_norm(h[:, 0], model.norm, c.norm_eps)


@torch.inference_mode()
def read_halves(model: Transformer, ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
    """`read` for blocks in bfloat16."""
    c, past, length = model.config, cache.length, len(ids)
    rows, ffn = (length, c.n_heads + 2 * c.n_kv_heads, c.head_width), c.ffn_width
    turn = torch.view_as_complex(model.cos_sin(past + length)[past : past + length]).unsqueeze(1)  # (L, 1, d/2)
    h = F.embedding(ids, model.embedding.weight).float()  # (L, D)
    for layer, block in enumerate(cast("list[Block]", model.blocks)):
        x = F.linear(_halved(h, block.attention_norm, c.norm_eps), block.qkv.weight, block.qkv.bias).view(rows).float()
        heard = _hear(x, block, layer, turn, cache, mask)
        if layer == c.n_layers - 1:
            h = h[-1:]
        h.add_(F.linear(heard.bfloat16(), block.out.weight))
        x = F.linear(_halved(h, block.ffn_norm, c.norm_eps), block.gate_up.weight)  # (L, 2F)
        h.add_(F.linear(F.silu(x[:, :ffn]).mul_(x[:, ffn:]), block.down.weight))
    return rms_norm(h[0], model.norm, c.norm_eps)


def _hear(x: Tensor, block: Block, layer: int, turn: Tensor, cache: KVCache, mask: Tensor | None) -> Tensor:
    """Attention of one block: x (L, H + 2K, d), its queries, keys and values, written over; `turn` (L, 1, d/2) turns them. Returns
    (L, H · d), of the last block for the last position only (1, H · d); keys and values go into the cache."""
    c = block.config
    heads, kv, d = c.n_heads, c.n_kv_heads, c.head_width
    if c.qk_norm:
        x[:, :heads] = rms_norm(x[:, :heads], block.q_norm, c.norm_eps)
        x[:, heads : heads + kv] = rms_norm(x[:, heads : heads + kv], block.k_norm, c.norm_eps)
    torch.view_as_complex(x[:, : heads + kv].view(len(x), heads + kv, d // 2, 2)).mul_(turn)
    q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (x[:, :heads], x[:, heads:-kv], x[:, -kv:]))  # (1, heads, L, d)
    k, v = cache.update(layer, k, v)
    if layer == c.n_layers - 1:
        q, mask = q[:, :, -1:], None if mask is None else mask[:, :, -1:]
    causal = mask is None and q.shape[2] > 1
    heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
    return heard[0].transpose(0, 1).reshape(-1, heads * d)


def _halved(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of the rows of h (L, D), in bfloat16."""
    return rms_norm(h, weight, eps).bfloat16()


def _normed(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the features of h (D, L): the mean squares as a matrix product, which adds columns faster than a sum over them does."""
    x = h * h
    scale = torch.mm(h.new_full((1, len(h)), 1 / len(h)), x).add_(eps).rsqrt_()  # (1, L)
    return torch.mul(h, scale, out=x).mul_(weight.unsqueeze(1))
