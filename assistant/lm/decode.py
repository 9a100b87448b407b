"""One token at a time, as fast as plain torch calls go: the arithmetic of `transformer.py` for B = L = 1, in one flat function.

Everything that does not depend on the token is looked up once. The residual stream, attention and cache are float32; only the
matrix products run on the packed int4 weights (or, without those, on the dense ones in their own precision).
`Step.forward` is ordinary Python. Where torch can still trace it (TorchScript is deprecated and absent from new Pythons), the
very same calls run without the interpreter between the thousand of them: the same bits, about a half more tokens a second.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm.head import head_product
from assistant.lm.kernels import Kernels, onednn_has_bfloat16, without_onednn
from assistant.lm.kv_cache import KVCache, Seen, look
from assistant.lm.packed_linear import Int8Linear, int4_product, is_int8, packed_view
from assistant.lm.parallel import Share
from assistant.lm.quantize import Int4
from assistant.lm.transformer import Block, Config, Transformer, rotary_table
from assistant.lm.weights import PackedBlock

EAGER = "PELLUCID_EAGER"
"""Set this environment variable to run the decoder as plain Python."""


class Matrix(NamedTuple):
    """One linear map: dense (out, in), or an `Int4` with its scales and zeros (in / 32, out, 2) in bfloat16, or int8
    (out, in) with one scale a row (out,)."""

    weight: Tensor
    scales: Tensor | None
    bias: Tensor | None


class Layer(NamedTuple):
    """What one block multiplies by; the weights of both norms times √D (see `Step.normed`)."""

    attention_norm: Tensor
    ffn_norm: Tensor
    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    q_norm: Tensor | None
    k_norm: Tensor | None
    post_attention_norm: Tensor | None
    post_ffn_norm: Tensor | None
    window: int
    """0: all positions."""


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """x (1, in) float32 → (1, out) in the precision of the matrix, which a sum with float32 takes as it is."""
    weight, scales, bias = matrix.weight, matrix.scales, matrix.bias
    if scales is not None:
        if weight.dtype == torch.int8:
            y: Tensor = torch.ops.aten._weight_int8pack_mm(x.to(torch.bfloat16), weight, scales)
        else:
            y = int4_product(x.to(torch.bfloat16), weight, scales)
        return y if bias is None else y.to(torch.float32) + bias
    return F.linear(x.to(weight.dtype), weight, bias)


def head_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of each row: x (heads, d)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


class Step(nn.Module):
    """One pass through all blocks for one token."""

    layers: list[Layer]
    norm: Tensor
    blank: Tensor

    def __init__(self, config: Config, layers: list[Layer], norm: Tensor) -> None:
        """norm: that before the output matrix, (D,)."""
        super().__init__()
        self.layers = layers
        self.register_buffer("norm", norm * math.sqrt(config.width))
        self.register_buffer("blank", torch.full((1, config.width + 1), math.sqrt(config.width * config.norm_eps), device=norm.device))
        self.width, self.heads, self.kv, self.d = config.width, config.n_heads, config.n_kv_heads, config.head_width
        self.ffn, self.norm_eps = config.ffn_width, config.norm_eps
        self.scale = config.query_scale or config.head_width**-0.5
        self.gelu = config.activation == "gelu"
        # On the CPU a complex product turns all pairs in one call; other devices get the real form.
        self.complex = norm.device.type == "cpu"

    def begin(self, vector: Tensor) -> Tensor:
        """A token's embedding (D,) or (1, D) → the residual stream (1, D + 1) that `forward` writes over: see `normed`."""
        stream = self.blank.clone()
        stream.narrow(1, 0, self.width).copy_(vector)
        return stream

    def forward(
        self, stream: Tensor, turn: Tensor, local: Tensor, places: list[Tensor], keys: list[Tensor], values: list[Tensor]
    ) -> Tensor:
        """stream: `begin` of the token's embedding, overwritten; turn, local: `angles` of its position, the second for layers with a
        window; places, keys, values: `KVCache.seen`.

        Returns the hidden state (1, D) after the last norm.
        """
        h = stream.narrow(1, 0, self.width)
        for i, layer in enumerate(self.layers):
            x = product(self.normed(stream, h, layer.attention_norm), layer.qkv).to(torch.float32)
            heard = self.hear(x, layer, local if layer.window > 0 else turn, places[i], keys[i], values[i])
            self.join(h, product(heard, layer.out), layer.post_attention_norm)
            x = product(self.normed(stream, h, layer.ffn_norm), layer.gate_up).to(torch.float32)
            self.join(h, product(self.gated(x), layer.down), layer.post_ffn_norm)
        return self.normed(stream, h, self.norm)

    def rows(self, streams: list[Tensor], turns: list[Tensor], locals_: list[Tensor], seen: list[Seen]) -> list[Tensor]:
        """`forward` for one token each of several sequences, in lockstep: only the matrix products are shared, so that every row has
        the bits it would have alone wherever a product's rows have them (the quantised kernels' do)."""
        hs = [stream.narrow(1, 0, self.width) for stream in streams]
        for i, layer in enumerate(self.layers):
            xs = together([self.normed(s, h, layer.attention_norm) for s, h in zip(streams, hs, strict=True)], layer.qkv)
            angles = locals_ if layer.window > 0 else turns
            heard = [self.hear(x, layer, angle, *(part[i] for part in s)) for x, angle, s in zip(xs, angles, seen, strict=True)]
            for h, y in zip(hs, together(heard, layer.out), strict=True):
                self.join(h, y, layer.post_attention_norm)
            xs = together([self.normed(s, h, layer.ffn_norm) for s, h in zip(streams, hs, strict=True)], layer.gate_up)
            for h, y in zip(hs, together([self.gated(x) for x in xs], layer.down), strict=True):
                self.join(h, y, layer.post_ffn_norm)
        return [self.normed(s, h, self.norm) for s, h in zip(streams, hs, strict=True)]

    def normed(self, stream: Tensor, h: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of h (1, D), the stream without its last number, which is √(D ε): with the length of all of it
        h / √(mean(h²) + ε) ⊙ w = h / ‖stream‖ ⊙ √D w, where `weight` is √D w."""
        return torch.div(h, torch.linalg.vector_norm(stream)).mul_(weight)

    def join(self, h: Tensor, y: Tensor, after: Tensor | None) -> None:
        """Add `y` to the residual stream, normalised first where the family does that."""
        h.add_(y if after is None else head_norm(y.to(torch.float32), after, self.norm_eps))

    def gated(self, x: Tensor) -> Tensor:
        """(1, 2F) → (1, F)."""
        gate, up = x.narrow(1, 0, self.ffn), x.narrow(1, self.ffn, self.ffn)
        return (F.gelu(gate, approximate="tanh") if self.gelu else F.silu(gate)).mul_(up)

    def hear(self, x: Tensor, layer: Layer, angles: Tensor, place: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of one token: x (1, (H + 2K) · d), its queries, keys and values → (1, H · d); keys and values go to their `place`."""
        heads, kv, d = self.heads, self.kv, self.d
        x = self.turned(x, layer, angles)
        place.copy_(x.narrow(0, heads, 2 * kv).view(2, kv, 1, d))
        # softmax(q · kᵀ / √d) · v, the queries that share keys as the rows of one product. The library's attention would do, but
        # its last bits depend on the number of threads (so do the alignments of their buffers), and a reply must not.
        weights = torch.bmm(x.narrow(0, 0, heads).view(kv, heads // kv, d), keys).softmax(-1)
        return torch.bmm(weights, values).view(1, heads * d)

    def turned(self, x: Tensor, layer: Layer, angles: Tensor) -> Tensor:
        """x (1, (H + 2K) · d) to (H + 2K, d), written over: queries and keys normalised where the family does that, and turned."""
        heads, kv, d = self.heads, self.kv, self.d
        x = x.view(heads + 2 * kv, d)
        q_norm, k_norm = layer.q_norm, layer.k_norm
        if q_norm is not None and k_norm is not None:
            x.narrow(0, 0, heads).copy_(head_norm(x.narrow(0, 0, heads), q_norm, self.norm_eps))
            x.narrow(0, heads, kv).copy_(head_norm(x.narrow(0, heads, kv), k_norm, self.norm_eps))
        pairs = x.view(heads + 2 * kv, d // 2, 2)
        if self.complex:
            torch.view_as_complex(pairs).mul_(angles)
        else:
            a, b, cos, sin = pairs.select(-1, 0), pairs.select(-1, 1), angles.select(-1, 0), angles.select(-1, 1)
            pairs.copy_(torch.stack([a * cos - b * sin, a * sin + b * cos], -1))
        return x


def together(xs: list[Tensor], matrix: Matrix) -> list[Tensor]:
    """`product` of several rows at once."""
    return [y.float().clone() for y in product(torch.cat(xs), matrix).split(1)]  # type: ignore[no-untyped-call]


Run = Callable[[Tensor, Tensor, Tensor, list[Tensor], list[Tensor], list[Tensor]], Tensor]


def accelerated(step: Step, inputs: tuple[Tensor | list[Tensor], ...]) -> Run:
    """`step` traced with `inputs`, or `step` itself where torch cannot (or PELLUCID_EAGER is set). Takes a tenth of a second: one token is
    computed, no optimiser runs. What `step` decides by itself (families, windows) is decided once; what depends on the token comes in."""
    if os.environ.get(EAGER):
        return cast(Run, step)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the deprecation is known: the plain function stays
            traced = torch.jit.trace(step, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    except (RuntimeError, NotImplementedError, AttributeError):
        return cast(Run, step)

    unoptimised = torch.jit.optimized_execution  # type: ignore[attr-defined]

    def run(stream: Tensor, turn: Tensor, local: Tensor, places: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> Tensor:
        with unoptimised(False):  # the optimiser would compile again on the second call and win nothing here
            return cast(Tensor, traced(stream, turn, local, places, keys, values))

    return run


class DenseDecoder:
    """`Decoder` through `transformer.py` itself: for families that `Step` is not written for (GPT-2), and several processes."""

    def __init__(self, model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> None:
        self.model, self.cache = packed_view(model, packed) if packed else model, cache
        self.head = head_product(model, quick=packed is not None and cache.device.type == "cpu")
        self.state = torch.zeros(1, model.config.width)

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        """Token id → logits (V,) float32; writes keys and values into the cache and advances it."""
        cache, at = self.cache, self.cache.length
        cache.reserve(at + 1)
        one = torch.full((1, 1), token, device=cache.device)
        everything = torch.ones(1, 1, 1, at + 1, dtype=torch.bool, device=cache.device)
        h = self.model(one, positions=torch.full_like(one, at), mask=everything, cache=cache)
        cache.advance([token])
        self.state = h[0]
        return self.head(h[0])[0]


def suits(config: Config) -> bool:
    """Whether `Step` is written for this family."""
    return config.gated and not (config.layer_norm or config.learned_positions or config.attention_softcap)


def decoder(model: Transformer, packed: list[PackedBlock] | None, cache: KVCache, kernels: Kernels | None = None) -> Decoder | DenseDecoder:
    """The fastest decoder there is for this model; `kernels`: what this processor was measured to need."""
    if not suits(model.config) or isinstance(model.blocks[0].qkv, Share):
        return DenseDecoder(model, packed, cache)
    if cache.device.type == "cuda" and not os.environ.get(EAGER):
        from assistant.lm.graphs import GraphDecoder  # which builds on this module

        return GraphDecoder(model, packed, cache)
    made = Decoder(model, packed, cache)
    halves = any(m.weight.dtype == torch.bfloat16 for layer in made.step.layers for m in (layer.qkv, layer.down))
    if halves and cache.device.type == "cpu" and kernels is not None and kernels.native and onednn_has_bfloat16():
        run = made.run
        made.run = lambda *inputs: without_onednn(lambda: run(*inputs))
    return made


class Decoder:
    """Callable: token id → logits (V,) float32; writes keys and values into the cache and advances it."""

    def __init__(self, model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> None:
        self.cache = cache
        self.embedding = model.embedding.weight
        self.head = head_product(model, quick=packed is not None and cache.device.type == "cpu")
        layers = [_layer(i, cast(Block, block), packed[i] if packed else None) for i, block in enumerate(model.blocks)]
        self.step = Step(model.config, layers, model.norm.detach())
        self.state = torch.zeros(1, model.config.width)
        """The hidden state (1, D) after the last norm of the token that was read last, for probes."""
        c = model.config
        self.scale, self.window = c.embedding_scale, c.window if c.windowed else 0
        self.rotary = self._table(c, cache, local=False)
        self.local = self._table(c, cache, local=True) if c.local_rope_base else self.rotary
        # what the rows of a token's projections are turned by: queries are scaled as well, values stay as they are
        q, k, v = c.n_heads, c.n_kv_heads, c.n_kv_heads
        factor = torch.tensor([self.step.scale] * q + [1.0] * k + [0.0] * v).to(cache.device)
        shift = torch.tensor([0.0] * (q + k) + [1.0] * v).to(cache.device)
        if self.step.complex:
            self.factor, self.shift = factor.view(-1, 1), shift.view(-1, 1)
        else:
            self.factor, self.shift = factor.view(-1, 1, 1), torch.stack([shift, torch.zeros_like(shift)], -1).unsqueeze(1)
        self.run = self._accelerated()

    def _accelerated(self) -> Run:
        c = self.step
        if self.cache.device.type not in ("cpu", "mps"):
            return cast(Run, c)
        store = torch.zeros(len(c.layers), 2, c.kv, 4, c.d, device=self.cache.device)
        return accelerated(c, (self.embedded(0), *self.angles(0), *look(store, 3, 0)))

    def _table(self, config: Config, cache: KVCache, *, local: bool) -> Tensor:
        table = rotary_table(config, cache.capacity, cache.device, local=local)
        return torch.view_as_complex(table).contiguous() if self.step.complex else table

    def angles(self, at: int) -> tuple[Tensor, Tensor]:
        """By what every row of the projections (H + 2K, d) is turned at a position: for all layers, and for those with a window."""
        turn = self.rotary[at] * self.factor + self.shift
        return turn, turn if self.local is self.rotary else self.local[at] * self.factor + self.shift

    def embedded(self, token: int) -> Tensor:
        """`Step.begin` of a token."""
        vector = self.embedding[token]
        return self.step.begin(vector if self.scale == 1.0 else vector.to(torch.float32) * self.scale)

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        cache, at = self.cache, self.cache.length
        cache.reserve(at + 1)
        h = self.run(self.embedded(token), *self.angles(at), *self._near(cache.whole, at))
        cache.advance([token])
        self.state = h
        return self.head(h)[0]

    def _near(self, store: Tensor, at: int) -> Seen:
        """What every layer sees: everything, or its window."""
        places, keys, values = look(store, at, 0)
        first = at + 1 - self.window
        if self.window and first > 0:
            _, near_keys, near_values = look(store, at, first)
            for i, layer in enumerate(self.step.layers):
                if layer.window:
                    keys[i], values[i] = near_keys[i], near_values[i]
        return places, keys, values

    @torch.inference_mode()
    def rows(self, tokens: list[int], stores: list[Tensor], ats: list[int]) -> list[Tensor]:
        """One token each of several sequences → hidden states (1, D); stores[i] (layers, 2, K, size, d) of sequence i, written at
        ats[i]."""
        turns, locals_ = zip(*(self.angles(at) for at in ats), strict=True)
        seen = [self._near(store, at) for store, at in zip(stores, ats, strict=True)]
        return self.step.rows([self.embedded(token) for token in tokens], list(turns), list(locals_), seen)


def _layer(index: int, block: Block, packed: PackedBlock | None) -> Layer:
    c, dense = block.config, (block.qkv, block.out, block.gate_up, block.down)
    biases = [None if m.bias is None else m.bias.detach() for m in dense]
    if is_int8(block):
        matrices = [Matrix(m.weight, m.scales, m.bias) for m in cast("tuple[Int8Linear, ...]", dense)]
    elif packed is None:
        matrices = [Matrix(m.weight.detach(), None, bias) for m, bias in zip(dense, biases, strict=True)]
    else:
        fours = (packed.qkv, packed.out, packed.gate_up, packed.down)
        matrices = [_mixed(four, m, bias) for four, m, bias in zip(fours, dense, biases, strict=True)]
    q_norm, k_norm = (block.q_norm.detach(), block.k_norm.detach()) if c.qk_norm else (None, None)
    after, last = (None if p is None else p.detach() for p in (block.post_attention_norm, block.post_ffn_norm))
    window, root = c.window if c.is_windowed(index) else 0, math.sqrt(c.width)
    qkv, out, gate_up, down = matrices
    norms = block.attention_norm.detach() * root, block.ffn_norm.detach() * root
    return Layer(*norms, qkv, out, gate_up, down, q_norm, k_norm, after, last, window)


def _mixed(matrix: Int4 | None, dense: nn.Linear, bias: Tensor | None) -> Matrix:
    """The packed matrix, or where the file has another form the dense one in bfloat16: one token reads half the bytes of float32."""
    if matrix is not None:
        return Matrix(matrix.packed, matrix.scale_and_zero, bias)
    return Matrix(dense.weight.detach().bfloat16(), None, None if bias is None else bias.bfloat16())
