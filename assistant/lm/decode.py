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
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.lm.head import head_product
from assistant.lm.kernels import Kernels, onednn_has_bfloat16, without_onednn
from assistant.lm.kv_cache import KVCache, Store
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


class Desk(NamedTuple):
    """Where one token is worked on. Every tensor is written over in every block, and what is a part of another is cut out here, once, not
    a thousand times a token."""

    stream: Tensor
    """The residual stream (1, D) and one number more: see `Step.normed`."""
    h: Tensor
    """The stream without its last number."""
    normed: Tensor
    """(1, D)"""
    half_normed: Tensor
    """The same in bfloat16, as are the others of that name."""
    qkv: Tensor
    """What a block makes of it: queries, keys and values (1, (H + 2K) · d), cut into …"""
    turning: Tensor
    """… complex numbers (H + 2K, d / 2), on other devices than the CPU pairs (H + 2K, d / 2, 2)"""
    query_rows: Tensor
    """(H, d)"""
    key_rows: Tensor
    """(K, d)"""
    queries: Tensor
    """(K, H / K, d)"""
    key: Tensor
    """(K, d, 1)"""
    value: Tensor
    """(K, 1, d)"""
    heard: Tensor
    """(K, H / K, d)"""
    heard_row: Tensor
    """The same as (1, H · d)"""
    half_heard: Tensor
    gate_up: Tensor
    """(1, 2F), cut into …"""
    gate: Tensor
    """(1, F)"""
    up: Tensor
    half_gate: Tensor

    @classmethod
    @torch.inference_mode()
    def prepare(cls, config: Config, device: torch.device) -> Desk:
        """One for the sizes of a model."""

        def room(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(1, width, dtype=dtype, device=device)

        c, half = config, torch.bfloat16
        heads, kv, d = c.n_heads, c.n_kv_heads, c.head_width
        stream = torch.full((1, c.width + 1), math.sqrt(c.width * c.norm_eps), device=device)
        qkv, heard, gate_up = room((heads + 2 * kv) * d), room(heads * d), room(2 * c.ffn_width)
        rows = qkv.view(heads + 2 * kv, d)
        query_rows, key_rows, value_rows = rows.split([heads, kv, kv])  # type: ignore[no-untyped-call]
        pairs = rows.view(heads + 2 * kv, d // 2, 2)
        return cls(
            stream, stream[:, : c.width], room(c.width), room(c.width, half),
            qkv, torch.view_as_complex(pairs) if device.type == "cpu" else pairs, query_rows, key_rows,
            query_rows.view(kv, heads // kv, d), key_rows.unsqueeze(2), value_rows.unsqueeze(1),
            heard.view(kv, heads // kv, d), heard, room(heads * d, half),
            gate_up, gate_up[:, : c.ffn_width], gate_up[:, c.ffn_width :], room(c.ffn_width, half),
        )  # fmt: skip


def product(x: Tensor, half: Tensor, matrix: Matrix) -> Tensor:
    """x (1, in) float32 → (1, out) in the precision of the matrix, which a sum with float32 takes as it is. `half` (1, in) is where
    bfloat16 products find x."""
    weight, scales, bias = matrix.weight, matrix.scales, matrix.bias
    if scales is not None:
        half.copy_(x)
        y: Tensor = torch._weight_int8pack_mm(half, weight, scales) if weight.dtype == torch.int8 else int4_product(half, weight, scales)
        return y if bias is None else y.to(torch.float32) + bias
    return F.linear(half.copy_(x) if weight.dtype == half.dtype else x.to(weight.dtype), weight, bias)


def head_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of each row: x (heads, d)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


Inputs = tuple[list[Tensor], Tensor, list[Tensor], Tensor, list[Tensor]]
"""What `Step.forward` takes."""


class Step(nn.Module):
    """One pass through all blocks for one token."""

    layers: list[Layer]
    norm: Tensor

    def __init__(self, config: Config, layers: list[Layer], norm: Tensor) -> None:
        """norm: that before the output matrix, (D,)."""
        super().__init__()
        self.layers = layers
        self.register_buffer("norm", norm * math.sqrt(config.width))
        self.norm_eps, self.gelu = config.norm_eps, config.activation == "gelu"
        # On the CPU a complex product turns all pairs in one call; other devices get the real form.
        self.complex = norm.device.type == "cpu"

    def forward(self, places: Sequence[Tensor], turn: Tensor, seen: Sequence[Tensor], local: Tensor, near: Sequence[Tensor]) -> Tensor:
        """places: a `Desk` with the token's embedding as `h`; turn: `angles` of its position; seen: a `Seen`; local and near: the same for
        layers with a window.

        Returns the hidden state (1, D) after the last norm.
        """
        desk, views = Desk(*places), self.views(seen, near)
        for i, layer in enumerate(self.layers):
            desk.qkv.copy_(product(self.normed(desk, layer.attention_norm), desk.half_normed, layer.qkv))
            self.hear(desk, layer, local if layer.window else turn, *views[i])
            self.join(desk, product(desk.heard_row, desk.half_heard, layer.out), layer.post_attention_norm)
            desk.gate_up.copy_(product(self.normed(desk, layer.ffn_norm), desk.half_normed, layer.gate_up))
            self.join(desk, product(self.gated(desk), desk.half_gate, layer.down), layer.post_ffn_norm)
        return self.normed(desk, self.norm).clone()

    def views(self, seen: Sequence[Tensor], near: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Of every layer its part of what it sees."""
        whole = list(zip(*(part.unbind(0) for part in seen), strict=True))
        if not any(layer.window for layer in self.layers):
            return whole
        parts = zip(*(part.unbind(0) for part in near), strict=True)
        return [part if layer.window else all_ for layer, part, all_ in zip(self.layers, parts, whole, strict=True)]

    def rows(self, tokens: list[Inputs]) -> list[Tensor]:
        """`forward` for one token each of several sequences, in lockstep: only the matrix products are shared, so that every row has
        the bits it would have alone wherever a product's rows have them (the quantised kernels' do)."""
        desks = [Desk(*token[0]) for token in tokens]
        views = [self.views(seen, near) for _, _, seen, _, near in tokens]
        for i, layer in enumerate(self.layers):
            for desk, x in zip(desks, together([self.normed(desk, layer.attention_norm) for desk in desks], layer.qkv), strict=True):
                desk.qkv.copy_(x)
            for desk, (_, turn, _, local, _), parts in zip(desks, tokens, views, strict=True):
                self.hear(desk, layer, local if layer.window else turn, *parts[i])
            for desk, x in zip(desks, together([desk.heard_row for desk in desks], layer.out), strict=True):
                self.join(desk, x, layer.post_attention_norm)
            for desk, x in zip(desks, together([self.normed(desk, layer.ffn_norm) for desk in desks], layer.gate_up), strict=True):
                desk.gate_up.copy_(x)
            for desk, x in zip(desks, together([self.gated(desk) for desk in desks], layer.down), strict=True):
                self.join(desk, x, layer.post_ffn_norm)
        return [self.normed(desk, self.norm).clone() for desk in desks]

    def normed(self, desk: Desk, weight: Tensor) -> Tensor:
        """RMSNorm of h (1, D), the stream without its last number, which is √(D ε): with the length of all of it
        h / √(mean(h²) + ε) ⊙ w = h / ‖stream‖ ⊙ √D w, where `weight` is √D w."""
        return torch.div(desk.h, torch.linalg.vector_norm(desk.stream), out=desk.normed).mul_(weight)

    def join(self, desk: Desk, y: Tensor, after: Tensor | None) -> None:
        """Add `y` to the residual stream, normalised first where the family does that."""
        y = desk.normed.copy_(y)
        desk.h.add_(y if after is None else head_norm(y, after, self.norm_eps))

    def gated(self, desk: Desk) -> Tensor:
        """The product of the activated gate with the other half, written over the gate (1, F)."""
        gate = desk.gate
        gate = gate.copy_(F.gelu(gate, approximate="tanh")) if self.gelu else F.silu(gate, inplace=True)
        return gate.mul_(desk.up)

    def hear(
        self, desk: Desk, layer: Layer, angles: Tensor, key_place: Tensor, value_place: Tensor, keys: Tensor, values: Tensor
    ) -> None:  # fmt: skip
        """Attention of one token: `desk.qkv` → `desk.heard`; its key and value go to their places."""
        self.turn(desk, layer, angles)
        key_place.copy_(desk.key)
        value_place.copy_(desk.value)
        # softmax(q · kᵀ / √d) · v, the queries that share keys as the rows of one product. The library's attention would do, but
        # its last bits depend on the number of threads (so do the alignments of their buffers), and a reply must not.
        torch.bmm(torch.bmm(desk.queries, keys).softmax(-1), values, out=desk.heard)

    def turn(self, desk: Desk, layer: Layer, angles: Tensor) -> None:
        """Queries and keys normalised where the family does that, and turned, in their places."""
        q_norm, k_norm, pairs = layer.q_norm, layer.k_norm, desk.turning
        if q_norm is not None and k_norm is not None:
            desk.query_rows.copy_(head_norm(desk.query_rows, q_norm, self.norm_eps))
            desk.key_rows.copy_(head_norm(desk.key_rows, k_norm, self.norm_eps))
        if self.complex:
            pairs.mul_(angles)
        else:
            a, b, cos, sin = pairs.select(-1, 0), pairs.select(-1, 1), angles.select(-1, 0), angles.select(-1, 1)
            pairs.copy_(torch.stack([a * cos - b * sin, a * sin + b * cos], -1))


def together(xs: list[Tensor], matrix: Matrix) -> Iterable[Tensor]:
    """`product` of several rows at once."""
    rows = torch.cat(xs)
    return product(rows, rows.to(torch.bfloat16), matrix).split(1)  # type: ignore[no-any-return, no-untyped-call]


Run = Callable[[Sequence[Tensor], Tensor, Sequence[Tensor], Tensor, Sequence[Tensor]], Tensor]


def accelerated(step: Step, inputs: Inputs) -> Run:
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

    def run(places: Sequence[Tensor], turn: Tensor, seen: Sequence[Tensor], local: Tensor, near: Sequence[Tensor]) -> Tensor:
        with unoptimised(False):  # the optimiser would compile again on the second call and win nothing here
            return cast(Tensor, traced(places, turn, seen, local, near))

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
        c = model.config
        self.step = Step(c, layers, model.norm.detach())
        self.desks = [list(Desk.prepare(c, cache.device))]
        """One for a token alone; more are added for `rows`."""
        self.state = torch.zeros(1, c.width)
        """The hidden state (1, D) after the last norm of the token that was read last, for probes."""
        self.scale, self.window = c.embedding_scale, c.window if c.windowed else 0
        self.rotary = self._table(c, cache, local=False)
        self.local = self._table(c, cache, local=True) if c.local_rope_base else self.rotary
        # what the rows of a token's projections are turned by: queries are scaled as well, values stay as they are
        q, k, v = c.n_heads, c.n_kv_heads, c.n_kv_heads
        factor = torch.tensor([c.query_scale or c.head_width**-0.5] * q + [1.0] * k + [0.0] * v).to(cache.device)
        shift = torch.tensor([0.0] * (q + k) + [1.0] * v).to(cache.device)
        if self.step.complex:
            self.factor, self.shift = factor.view(-1, 1), shift.view(-1, 1)
        else:
            self.factor, self.shift = factor.view(-1, 1, 1), torch.stack([shift, torch.zeros_like(shift)], -1).unsqueeze(1)
        self.run = self._accelerated()

    @torch.inference_mode()
    def _accelerated(self) -> Run:
        if self.cache.device.type not in ("cpu", "mps"):
            return cast(Run, self.step)
        store = Store.allocate(self.cache.config, 4, self.cache.device)
        return accelerated(self.step, self._inputs(0, store, 3))

    def _table(self, config: Config, cache: KVCache, *, local: bool) -> Tensor:
        table = rotary_table(config, cache.capacity, cache.device, local=local)
        return torch.view_as_complex(table).contiguous() if self.step.complex else table

    def angles(self, at: int) -> tuple[Tensor, Tensor]:
        """By what every row of the projections (H + 2K, d) is turned at a position: for all layers, and for those with a window."""
        turn = self.rotary[at] * self.factor + self.shift
        return turn, turn if self.local is self.rotary else self.local[at] * self.factor + self.shift

    def embedded(self, token: int, desk: int = 0) -> list[Tensor]:
        """The desk of that number, with the embedding of a token on it."""
        while len(self.desks) <= desk:
            self.desks.append(list(Desk.prepare(self.cache.config, self.cache.device)))
        h = Desk(*self.desks[desk]).h.copy_(self.embedding[token])
        if self.scale != 1.0:
            h.mul_(self.scale)
        return self.desks[desk]

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        cache, at = self.cache, self.cache.length
        cache.reserve(at + 1)
        h = self.run(*self._inputs(token, cache.store, at))
        cache.advance([token])
        self.state = h
        return self.head(h)[0]

    def _inputs(self, token: int, store: Store, at: int, desk: int = 0) -> Inputs:
        """For a token at position `at` of a sequence: what every layer sees is everything, or its window."""
        turn, local = self.angles(at)
        seen, first = list(store.look(at)), at + 1 - self.window
        return self.embedded(token, desk), turn, seen, local, list(store.look(at, first)) if self.window and first > 0 else seen

    @torch.inference_mode()
    def rows(self, tokens: list[int], stores: list[Store], ats: list[int]) -> list[Tensor]:
        """One token each of several sequences → hidden states (1, D); stores[i] is that of sequence i, written at ats[i]."""
        return self.step.rows([self._inputs(*one, desk) for desk, one in enumerate(zip(tokens, stores, ats, strict=True))])


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
