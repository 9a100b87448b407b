"""Reading a prompt: the arithmetic of `transformer.py` for a batch of one without gradients, laid out for the processor's matrix kernels.

The residual stream is kept feature-major, h (D, L), in float32. Then the products of a block are W · x with the big matrix on the left.
In float32 most CPU libraries multiply so some 15 % faster at the length of a prompt than x · Wᵀ (`kernels.py` measures whether these do),
and the residual sums happen inside the products. In bfloat16 oneDNN rearranges the right operand for the processor at every call, and here
that is the prompt, not the weights: a third less time at any length, and half where the matrix is large. Everything between the products is
done in place. Of the last block only the keys and values of all positions are needed, and what the last position makes of them.
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
        return read
    return read if columns and qkv.weight.dtype is model.embedding.weight.dtype is torch.float32 else None


@torch.inference_mode()
def read(model: Transformer, ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
    """Hidden state (D,) after the last of `ids` (L,), which follow what is in the cache; their keys and values are written, not counted.
    The blocks' weights are float32 or bfloat16.

    `mask` (1, 1, L, T) is True where a query may look; None is plain causal and needs an empty cache.
    """
    c, past, length = model.config, cache.length, len(ids)
    rows, ffn = (length, c.n_heads + 2 * c.n_kv_heads, c.head_width), c.ffn_width
    precision = cast(Block, model.blocks[0]).qkv.weight.dtype
    turn = torch.view_as_complex(model.cos_sin(past + length)[past : past + length]).unsqueeze(1)  # (L, 1, d/2)
    h = F.embedding(ids, model.embedding.weight).float().t().contiguous()  # (D, L)
    hidden = None if mask is None else torch.zeros(mask.shape, dtype=precision).masked_fill_(~mask, -torch.inf)
    for layer, block in enumerate(cast("list[Block]", model.blocks)):
        x = _rows(_normed(h, block.attention_norm, c.norm_eps).to(precision), block.qkv)
        heard = _hear(x.view(rows), block, layer, turn, cache, hidden)
        if layer == c.n_layers - 1:
            h = h[:, -1:].contiguous()
        _add(h, block.out.weight, heard.t())
        x = torch.mm(block.gate_up.weight, _normed(h, block.ffn_norm, c.norm_eps).to(precision))  # (2F, L)
        _add(h, block.down.weight, F.silu(x[:ffn], inplace=True).mul_(x[ffn:]))
    return rms_norm(h[:, 0], model.norm, c.norm_eps)


def _rows(x: Tensor, linear: nn.Linear) -> Tensor:
    """x (in, L) in the precision of the weights → W x + b as rows (L, out) in float32."""
    if linear.weight.dtype is torch.float32:
        return F.linear(x.t(), linear.weight, linear.bias)
    y = torch.mm(linear.weight, x).t().contiguous().float()
    return y if linear.bias is None else y.add_(linear.bias)


def _add(h: Tensor, weight: Tensor, x: Tensor) -> None:
    """h (D, L) += weight · x, x (in, L) in the precision of the weight."""
    if weight.dtype is h.dtype:
        h.addmm_(weight, x)
    else:
        h.add_(torch.mm(weight, x))


def _hear(x: Tensor, block: Block, layer: int, turn: Tensor, cache: KVCache, mask: Tensor | None) -> Tensor:
    """Attention of one block: x (L, H + 2K, d), its queries, keys and values, written over; `turn` (L, 1, d/2) turns them; `mask` is added
    to the scores. Returns (L, H · d) in the precision of the weights, in which the scores are multiplied as well, of the last block for
    the last position only (1, H · d); keys and values go into the cache as they are."""
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
    q, k, v = (part.to(block.out.weight.dtype) for part in (q, k, v))
    heard = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
    return heard[0].transpose(0, 1).reshape(-1, heads * d)


def _normed(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the features of h (D, L): the mean squares as a matrix product, which adds columns faster than a sum over them does."""
    x = h * h
    scale = torch.mm(h.new_full((1, len(h)), 1 / len(h)), x).add_(eps).rsqrt_()  # (1, L)
    return torch.mul(h, scale, out=x).mul_(weight.unsqueeze(1))
