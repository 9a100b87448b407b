"""One token at a time on a CUDA device, without the processor in between: the thousand small calls of a token are recorded once as a CUDA
graph and started together ever after (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).

A recording has fixed shapes and addresses. So the token and its position lie in buffers, keys and values are written by index, and
attention looks at all places the cache has, those after the position masked. When the cache grows, the recording is made again: three
times on the way to 2,048 positions. `Still` is that arithmetic; it runs anywhere, which is how it is tested without a device.
"""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor

from assistant.lm.decode import Decoder, Desk, Layer, Run, Step
from assistant.lm.kv_cache import KVCache, Store
from assistant.lm.transformer import Transformer
from assistant.lm.weights import PackedBlock

WARM = 2
"""Passes before the recording, in which libraries choose their kernels and allocate what they need."""


class Still(Step):
    """`Step` with fixed shapes: both places and what is seen are all of a layer's store, keys (K, d, size) and values (K, size, d)."""

    at: Tensor
    seen: Tensor
    near: Tensor

    def look(self, at: Tensor, size: int, window: int) -> None:
        """Set the position `at` (1,) of the token and what may be seen from there, as sums with the scores (1, 1, size)."""
        places = torch.arange(size, device=at.device)
        hidden = torch.where(places <= at, 0.0, -torch.inf)
        self.at, self.seen = at, hidden.view(1, 1, size)
        self.near = torch.where(places > at - window, hidden, -torch.inf).view(1, 1, size) if window else self.seen

    def hear(
        self, desk: Desk, layer: Layer, angles: Tensor, key_place: Tensor, value_place: Tensor, keys: Tensor, values: Tensor
    ) -> None:  # fmt: skip
        """`Step.hear` over all places."""
        self.turn(desk, layer, angles)
        key_place.index_copy_(2, self.at, desk.key)
        value_place.index_copy_(1, self.at, desk.value)
        scores = torch.bmm(desk.queries, keys) + (self.near if layer.window > 0 else self.seen)
        torch.bmm(scores.softmax(-1), values, out=desk.heard)


class GraphDecoder(Decoder):
    """`Decoder` whose tokens are one recorded graph each. Where recording fails it says so once and computes call by call."""

    def __init__(self, model: Transformer, packed: list[PackedBlock] | None, cache: KVCache) -> None:
        super().__init__(model, packed, cache)
        self.still = Still(model.config, self.step.layers, model.norm.detach())
        self.token = torch.zeros(1, dtype=torch.long, device=cache.device)
        self.at = torch.zeros(1, dtype=torch.long, device=cache.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.recorded: Store | None = None
        """What the recording reads and writes."""
        self.logits = self.hidden = torch.zeros(0)
        self.records = cache.device.type == "cuda"

    def _accelerated(self) -> Run:
        return cast(Run, self.step)  # a trace would be recorded all the same

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        cache, at = self.cache, self.cache.length
        if not self.records:
            return super().__call__(token)
        cache.reserve(at + 1)
        self.token.fill_(token)
        self.at.fill_(at)
        if self.recorded is not cache.store:
            try:
                self._record()
            except RuntimeError as error:
                self.records, self.graph, self.recorded = False, None, None
                warnings.warn(f"this device takes no CUDA graph, tokens are written call by call: {error}", stacklevel=2)
                return super().__call__(token)
        cast("torch.cuda.CUDAGraph", self.graph).replay()
        cache.advance([token])
        self.state = self.hidden.clone()
        return self.logits.clone()

    def _record(self) -> None:
        self.graph = self.recorded = None
        other = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):
            for _ in range(WARM):  # what they write at this position, the graph writes again
                self.fixed()
        torch.cuda.current_stream().wait_stream(other)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.logits, self.hidden = self.fixed()
        self.graph, self.recorded = graph, self.cache.store

    @torch.inference_mode()
    def fixed(self) -> tuple[Tensor, Tensor]:
        """Scores (V,) and hidden state (1, D) after the token in `self.token` at the position in `self.at`, with shapes that depend on
        neither; keys and values go to the cache, which is not advanced."""
        store, still = self.cache.store, self.still
        still.look(self.at, store.size, self.window)
        places = self.desks[0]
        h = Desk(*places).h.copy_(self.embedding.index_select(0, self.token))
        if self.scale != 1.0:
            h.mul_(self.scale)
        turn = self.rotary.index_select(0, self.at)[0] * self.factor + self.shift
        local = turn if self.local is self.rotary else self.local.index_select(0, self.at)[0] * self.factor + self.shift
        seen = (*store, *store)
        hidden = still(places, turn, seen, local, seen)
        return self.head(hidden)[0], hidden
