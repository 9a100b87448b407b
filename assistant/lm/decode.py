"""One token at a time, as fast as plain torch calls go: the arithmetic of `transformer.py` for B = L = 1, in one flat function.

Everything that does not depend on the token is looked up once. The residual stream, attention and cache are float32; only the
matrix products run on the packed int4 weights (or, without those, on the dense ones in their own precision).
`Step.forward` is ordinary Python. Where torch can still script it (TorchScript is deprecated and absent from new Pythons), the
very same function runs without the interpreter between its thousand small calls: the same bits, about a third more tokens a
second. (TorchScript reads the annotations here as types, so this module must not postpone them.)
"""

import os
import warnings
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm.kv_cache import KVCache
from assistant.lm.packed_linear import Int8Linear, packed_view
from assistant.lm.quantize import Int4
from assistant.lm.transformer import Block, Config, Transformer, rotary_table
from assistant.lm.weights import PackedBlock

Product = Callable[[Tensor], Tensor]
EAGER = "PELLUCID_EAGER"
"""Set this environment variable to run the decoder as plain Python."""


class Matrix(NamedTuple):
    """One linear map: dense (out, in), or packed int4 blocks of 32 with their scales and zeros (in / 32, out, 2) in bfloat16, or int8
    (out, in) with one scale a row (out,)."""

    weight: Tensor
    scales: Tensor | None
    bias: Tensor | None


class Layer(NamedTuple):
    """What one block multiplies by."""

    attention_norm: Tensor
    ffn_norm: Tensor
    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    q_norm: Tensor | None
    k_norm: Tensor | None


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """x (1, in) float32 → (1, out) float32 in the precision of the matrix."""
    weight, scales, bias = matrix.weight, matrix.scales, matrix.bias
    if scales is not None:
        if weight.dtype == torch.int8:
            y: Tensor = torch.ops.aten._weight_int8pack_mm(x.to(torch.bfloat16), weight, scales)
        else:
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(torch.bfloat16), weight, 32, scales)
        return y.to(torch.float32) if bias is None else y.to(torch.float32) + bias
    return F.linear(x.to(weight.dtype), weight, bias).to(torch.float32)


def head_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of each head: x (heads, d)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


class Step(nn.Module):
    """One pass through all blocks for one token."""

    layers: list[Layer]
    norm: Tensor
    eps: Tensor

    def __init__(self, config: Config, layers: list[Layer], norm: Tensor) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("norm", norm)
        self.register_buffer("eps", torch.full((1, 1), config.norm_eps, device=norm.device))
        self.heads, self.kv, self.d, self.ffn = config.n_heads, config.n_kv_heads, config.head_width, config.ffn_width
        self.mean, self.norm_eps = 1.0 / config.width, config.norm_eps
        # On the CPU a complex product turns all pairs in one call; other devices get the real form.
        self.complex = norm.device.type == "cpu"

    def forward(self, h: Tensor, turn: Tensor, stores: list[Tensor], at: int) -> Tensor:
        """h (1, D): the token's embedding; turn: its row of the rotary table; stores: per layer (2, K, size, d), written at `at`.

        Returns the hidden state (1, D) after the last norm.
        """
        heads, kv, d, ffn, eps, mean = self.heads, self.kv, self.d, self.ffn, self.eps, self.mean
        for i in range(len(self.layers)):
            layer = self.layers[i]
            # x / √(mean(x²) + ε): the sum of squares and the ε in one matrix product
            x = h * torch.addmm(eps, h, h.t(), alpha=mean).rsqrt_() * layer.attention_norm
            x = product(x, layer.qkv).view(heads + 2 * kv, d)
            q_norm, k_norm = layer.q_norm, layer.k_norm
            if q_norm is not None and k_norm is not None:
                x.narrow(0, 0, heads).copy_(head_norm(x.narrow(0, 0, heads), q_norm, self.norm_eps))
                x.narrow(0, heads, kv).copy_(head_norm(x.narrow(0, heads, kv), k_norm, self.norm_eps))
            qk = x.narrow(0, 0, heads + kv)
            if self.complex:
                torch.view_as_complex(qk.view(heads + kv, d // 2, 2)).mul_(turn)
            else:
                pairs = qk.view(heads + kv, d // 2, 2)
                a, b, cos, sin = pairs.select(-1, 0), pairs.select(-1, 1), turn.select(-1, 0), turn.select(-1, 1)
                qk.copy_(torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2))
            store = stores[i]
            store.narrow(2, at, 1).copy_(x.narrow(0, heads, 2 * kv).view(2, kv, 1, d))
            seen = store.narrow(2, 0, at + 1)
            q, k, v = qk.narrow(0, 0, heads).view(1, heads, 1, d), seen.select(0, 0).unsqueeze(0), seen.select(0, 1).unsqueeze(0)
            heard = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            h = h + product(heard.view(1, heads * d), layer.out)
            x = h * torch.addmm(eps, h, h.t(), alpha=mean).rsqrt_() * layer.ffn_norm
            x = product(x, layer.gate_up)
            h = h + product(F.silu(x.narrow(1, 0, ffn)).mul_(x.narrow(1, ffn, ffn)), layer.down)
        return h * torch.addmm(eps, h, h.t(), alpha=mean).rsqrt_() * self.norm


Run = Callable[[Tensor, Tensor, list[Tensor], int], Tensor]


def accelerated(step: Step) -> Run:
    """`step` scripted, or `step` itself where torch cannot (or PELLUCID_EAGER is set). Compiling takes some 20 ms: no optimiser runs."""
    if os.environ.get(EAGER):
        return cast(Run, step)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deprecation is known: the plain function stays
            scripted = torch.jit.script(step)
    except (RuntimeError, NotImplementedError, AttributeError):
        return cast(Run, step)

    unoptimised = torch.jit.optimized_execution  # type: ignore[attr-defined]

    def run(h: Tensor, turn: Tensor, stores: list[Tensor], at: int) -> Tensor:
        with unoptimised(False):  # the optimiser would compile again on the second call and win nothing here
            return cast(Tensor, scripted(h, turn, stores, at))

    return run


SHORTLIST = 64
"""How many of the likeliest tokens get their exact scores."""


def dense_product(weight: Tensor) -> Product:
    """x (1, in) float32 → (1, out) float32 through a dense matrix in its own precision."""
    matrix = Matrix(weight, None, None)
    return lambda x: product(x, matrix)


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
        scores[0, best] = torch.mv(weight[best].float(), x[0])
        return scores

    return product


class DenseDecoder:
    """`Decoder` through `transformer.py` itself: for families that `Step` is not written for."""

    def __init__(self, model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> None:
        self.model, self.cache = packed_view(model, packed) if packed else model, cache
        self.head = head_product(model, packed)

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        """Token id → logits (V,) float32; writes keys and values into the cache and advances it."""
        cache, at = self.cache, self.cache.length
        cache.reserve(at + 1)
        one = torch.full((1, 1), token, device=cache.device)
        everything = torch.ones(1, 1, 1, at + 1, dtype=torch.bool, device=cache.device)
        h = self.model(one, positions=torch.full_like(one, at), mask=everything, cache=cache)
        cache.advance([token])
        return self.head(h[0])[0]


def is_int8(block: nn.Module) -> bool:
    """Whether its matrices are kept as int8 only."""
    return isinstance(block.qkv, Int8Linear)


def suits(config: Config) -> bool:
    """Whether `Step` is written for this family."""
    return config.plain


def decoder(model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> "Decoder | DenseDecoder":
    """The fastest decoder there is for this model."""
    return Decoder(model, packed, cache) if suits(model.config) else DenseDecoder(model, packed, cache)


def head_product(model: Transformer, packed: list[PackedBlock] | None) -> Product:
    """Hidden state (1, D) → scores (1, V), quickly where the rest is quantised too."""
    weight, cap = model.head.weight, model.config.logit_softcap
    quantised = packed is not None or is_int8(model.blocks[0])
    scores = shortlist_product(weight) if quantised else dense_product(weight)
    return (lambda x: cap * torch.tanh(scores(x) / cap)) if cap else scores


class Decoder:
    """Callable: token id → logits (V,) float32; writes keys and values into the cache and advances it."""

    def __init__(self, model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> None:
        self.cache = cache
        self.embedding = model.embedding.weight
        self.head = head_product(model, packed)
        layers = [_layer(cast(Block, block), packed[i] if packed else None) for i, block in enumerate(model.blocks)]
        self.step = Step(model.config, layers, model.norm.detach())
        self.run = accelerated(self.step)
        table = rotary_table(model.config, cache.capacity, cache.device)
        self.rotary = torch.view_as_complex(table).contiguous() if self.step.complex else table

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        cache, at = self.cache, self.cache.length
        cache.reserve(at + 1)
        h = self.embedding[token].float().unsqueeze(0)  # (1, D)
        h = self.run(h, self.rotary[at], cache.layers, at)
        cache.advance([token])
        return self.head(h)[0]


def _layer(block: Block, packed: PackedBlock | None) -> Layer:
    bias = None if block.qkv.bias is None else block.qkv.bias.detach()
    if is_int8(block):
        eights = cast("list[Int8Linear]", [block.qkv, block.out, block.gate_up, block.down])
        qkv, out, gate_up, down = (Matrix(m.weight, m.scales, m.bias) for m in eights)
    elif packed is None:
        qkv = Matrix(block.qkv.weight.detach(), None, bias)
        out, gate_up, down = (Matrix(m.weight.detach(), None, None) for m in (block.out, block.gate_up, block.down))
    else:
        qkv = _mixed(packed.qkv, block.qkv, bias)
        pairs = ((packed.out, block.out), (packed.gate_up, block.gate_up), (packed.down, block.down))
        out, gate_up, down = (_mixed(matrix, dense, None) for matrix, dense in pairs)
    q_norm, k_norm = (block.q_norm.detach(), block.k_norm.detach()) if block.config.qk_norm else (None, None)
    return Layer(block.attention_norm.detach(), block.ffn_norm.detach(), qkv, out, gate_up, down, q_norm, k_norm)


def _mixed(matrix: Int4 | None, dense: nn.Linear, bias: Tensor | None) -> Matrix:
    """The packed matrix, or where the file has another form the dense one in bfloat16: one token reads half the bytes of float32."""
    if matrix is not None:
        return Matrix(matrix.packed, matrix.scale_and_zero, bias)
    return Matrix(dense.weight.detach().bfloat16(), None, None if bias is None else bias.bfloat16())
