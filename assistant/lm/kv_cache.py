"""Keys and values of positions already read, so that each new token costs one position and not the whole text again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from assistant.lm.config import Config

Seen = tuple[list[Tensor], list[Tensor], list[Tensor]]


def look(store: Tensor, at: int, first: int) -> Seen:
    """`KVCache.seen` for stored keys and values (layers, 2, K, size, d): one view of all layers, then cut, costs less than one a layer."""
    seen = store.narrow(3, first, at + 1 - first)
    keys, values = seen.select(1, 0).transpose(2, 3), seen.select(1, 1)
    return list(store.narrow(3, at, 1).unbind(0)), list(keys.unbind(0)), list(values.unbind(0))


class KVCache:
    """The growing cache of one conversation, with the ids it stands for; grows by doubling up to `capacity` positions."""

    def __init__(self, config: Config, capacity: int, device: torch.device) -> None:
        self.config, self.capacity, self.device = config, capacity, device
        self.ids: list[int] = []
        self.length = 0
        self._allocate(min(capacity, 256))

    def _allocate(self, size: int) -> None:
        c = self.config
        self.size = size
        self.whole = torch.zeros(c.n_layers, 2, c.n_kv_heads, size, c.head_width, device=self.device)
        self.layers = [self.whole[i] for i in range(len(self.whole))]

    def reserve(self, length: int) -> None:
        """Make room for `length` positions. Raises ValueError beyond the capacity."""
        if length > self.capacity:
            raise ValueError(f"{length} positions do not fit a context of {self.capacity}")
        if length > self.size:
            old = self.layers
            self._allocate(min(self.capacity, max(length, 2 * self.size)))
            for new, kept in zip(self.layers, old, strict=True):
                new[:, :, : self.length] = kept[:, :, : self.length]

    def seen(self, first: int = 0) -> Seen:
        """What the token at `length` sees and where it is written, per layer: its place (2, K, 1, d), the keys (K, d, T) and the values
        (K, T, d) of all positions from `first` to its own."""
        return look(self.whole, self.length, first)

    def keep_prefix(self, ids: Sequence[int]) -> int:
        """Forget everything after the longest common beginning with `ids`; returns its length (at most len(ids) − 1)."""
        n = 0
        for mine, theirs in zip(self.ids, ids[:-1], strict=False):
            if mine != theirs:
                break
            n += 1
        self.length = n
        del self.ids[n:]
        return n

    def advance(self, ids: Sequence[int]) -> None:
        """Record that keys and values for `ids` have been written at the end."""
        self.ids.extend(ids)
        self.length += len(ids)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`Cache.update` for a batch of one: writes after the current length (which `advance` then moves)."""
        end = self.length + k.shape[2]
        store = self.layers[layer]
        store[0, :, self.length : end] = k[0]
        store[1, :, self.length : end] = v[0]
        return store[0, :, :end].unsqueeze(0), store[1, :, :end].unsqueeze(0)


class Recording:
    """Collects the keys and values of one pass over an unchanged text; `prefix(n)` gives a cache of its first n positions."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`Cache.update`: keeps (1, K, P, d) and attends to it."""
        self.layers.append((k, v))
        return k, v

    def prefix(self, length: int) -> SharedPrefix:
        """What the first `length` positions left, to be seen by every row of a batch."""
        return SharedPrefix([(k[:, :, :length], v[:, :, :length]) for k, v in self.layers])


class SharedPrefix:
    """The keys and values of one common beginning, seen by every row of a batch; new ones are appended, never stored."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        self.layers = layers

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`Cache.update`: (B, K, L, d) → (B, K, P + L, d)."""
        pk, pv = self.layers[layer]
        shape = (k.shape[0], -1, -1, -1)
        return torch.cat([pk.expand(*shape), k], 2), torch.cat([pv.expand(*shape), v], 2)
