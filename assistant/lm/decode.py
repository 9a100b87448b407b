"""One token at a time, as fast as plain torch calls go: the arithmetic of `transformer.py` for B = L = 1, flattened into a loop.

Everything that does not depend on the token is looked up once. The residual stream, attention and cache are float32; only the
matrix products run on the packed int4 weights (or, without those, on the dense ones in their own precision).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.lm.kv_cache import KVCache
from assistant.lm.quantize import Int4
from assistant.lm.transformer import Block, Transformer, rotary_table
from assistant.lm.weights import PackedBlock

Product = Callable[[Tensor], Tensor]


def int4_product(weight: Int4) -> Product:
    """x (1, in) float32 → (1, out) float32 through torch's packed int4 kernel."""
    kernel, packed, scales = torch.ops.aten._weight_int4pack_mm_for_cpu.default, weight.packed, weight.scale_and_zero
    return lambda x: kernel(x.bfloat16(), packed, 32, scales).float()


def dense_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """x (1, in) float32 → (1, out) float32 through a dense matrix in its own precision."""
    if weight.dtype is torch.float32:
        return lambda x: F.linear(x, weight, bias)
    return lambda x: F.linear(x.to(weight.dtype), weight, bias).float()


SHORTLIST = 64
"""How many of the likeliest tokens get their exact scores."""


def shortlist_product(weight: Tensor) -> Product:
    """x (1, in) float32 → (1, out) float32 for a large vocabulary: all rows through 8-bit weights and activations, then the best
    SHORTLIST rows again, exactly. Without an 8-bit kernel all rows in bfloat16.
    """
    if not {"x86", "fbgemm"} & set(torch.backends.quantized.supported_engines):
        return dense_product(weight.to(torch.bfloat16))
    scales = weight.abs().amax(1).clamp_(min=1e-8).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():  # torch announces that these types will move to another package
        warnings.simplefilter("ignore")
        rows = torch.quantize_per_channel(weight.float(), scales, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rows, None)
    kernel = torch.ops.quantized.linear_dynamic.default

    def product(x: Tensor) -> Tensor:
        scores: Tensor = kernel(x, packed, True)
        best = scores.topk(SHORTLIST).indices[0]
        scores[0, best] = torch.mv(weight[best], x[0])
        return scores

    return product


class Decoder:
    """Callable: token id → logits (V,) float32; writes keys and values into the cache and advances it."""

    def __init__(self, model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> None:
        c = self.config = model.config
        self.cache = cache
        self.embedding, self.norm = model.embedding.weight, model.norm
        head = model.head.weight
        self.head = dense_product(head) if packed is None else shortlist_product(head)
        self.layers = []
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            if packed is not None:
                p = packed[i]
                products = (int4_product(p.qkv), int4_product(p.out), int4_product(p.gate_up), int4_product(p.down))
            else:
                products = (
                    dense_product(block.qkv.weight, block.qkv.bias), dense_product(block.out.weight),
                    dense_product(block.gate_up.weight), dense_product(block.down.weight),
                )  # fmt: skip
            norms = (block.q_norm, block.k_norm) if c.qk_norm else None
            self.layers.append((block.attention_norm, block.ffn_norm, products, norms))
        # On the CPU a complex product turns all pairs in one call; other devices get the real form.
        self.complex = cache.device.type == "cpu"
        table = rotary_table(c, cache.capacity, cache.device)
        self.rotary = torch.view_as_complex(table).contiguous() if self.complex else table
        self.eps = torch.full((1, 1), c.norm_eps, device=cache.device)

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        c, cache = self.config, self.cache
        heads, kv, d, ffn = c.n_heads, c.n_kv_heads, c.head_width, c.ffn_width
        at = cache.length
        cache.reserve(at + 1)
        turn = self.rotary[at]
        eps, mean = self.eps, 1.0 / c.width
        h = self.embedding[token].float().unsqueeze(0)  # (1, D)
        for (attention_norm, ffn_norm, (qkv, out, gate_up, down), qk_norms), store in zip(self.layers, cache.layers, strict=True):
            # x / √(mean(x²) + ε): the sum of squares and the ε in one matrix product
            x = h * torch.addmm(eps, h, h.t(), alpha=mean).rsqrt_() * attention_norm
            x = qkv(x).view(heads + 2 * kv, d)
            if qk_norms is not None:
                x[:heads] = _normed(x[:heads], qk_norms[0], c.norm_eps)
                x[heads : heads + kv] = _normed(x[heads : heads + kv], qk_norms[1], c.norm_eps)
            qk = x.narrow(0, 0, heads + kv)
            if self.complex:
                torch.view_as_complex(qk.view(heads + kv, d // 2, 2)).mul_(turn)
            else:
                a, b = qk.view(heads + kv, d // 2, 2).unbind(-1)
                cos, sin = turn.unbind(-1)
                qk.copy_(torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2))
            store.narrow(2, at, 1).copy_(x.narrow(0, heads, 2 * kv).view(2, kv, 1, d))
            seen = store.narrow(2, 0, at + 1)
            heard = F.scaled_dot_product_attention(
                qk.narrow(0, 0, heads).view(1, heads, 1, d), seen[0].unsqueeze(0), seen[1].unsqueeze(0), enable_gqa=True
            )
            h = h + out(heard.view(1, heads * d))
            x = h * torch.addmm(eps, h, h.t(), alpha=mean).rsqrt_() * ffn_norm
            x = gate_up(x)
            h = h + down(F.silu(x.narrow(1, 0, ffn)).mul_(x.narrow(1, ffn, ffn)))
        cache.advance([token])
        h = h * torch.addmm(eps, h, h.t(), alpha=mean).rsqrt_() * self.norm
        return self.head(h)[0]


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
