"""Keys and values of positions already read, so that each new token costs one position and not the whole text again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from assistant.lm.config import Config


class Seen(NamedTuple):
    """What a new token of one sequence sees in every layer, and where it leaves its own."""

    key_place: Tensor
    """(layers, K, d, 1)"""
    value_place: Tensor
    """(layers, K, 1, d)"""
    keys: Tensor
    """(layers, K, d, T): of its own position and those before."""
    values: Tensor
    """(layers, K, T, d)"""


_ROOM = 256
"""A cache is made for at least so many positions more than were asked for: after a prompt comes its reply."""
_APART = 16
"""Rows of keys end this many numbers before the next begins: rows that are a power of two apart share too few places of the processor's
cache."""


class Store(NamedTuple):
    """Room for keys and values of all layers. A token's scores are products with all positions of each number of the keys in turn, so
    these lie side by side; its attention adds up whole values."""

    keys: Tensor
    """(layers, …, K, d, size)."""
    values: Tensor
    """(layers, …, K, size, d)."""

    @classmethod
    def allocate(cls, config: Config, size: int, device: torch.device, *rows: int) -> Store:
        """Zeros for `size` positions, of one sequence or of several in `rows`."""
        c = config
        keys = torch.zeros(c.n_layers, *rows, c.n_kv_heads, c.head_width, size + _APART, device=device).narrow(-1, 0, size)
        return cls(keys, torch.zeros(c.n_layers, *rows, c.n_kv_heads, size, c.head_width, device=device))

    @property
    def size(self) -> int:
        """How many positions there is room for."""
        return self.values.shape[-2]

    def row(self, number: int) -> Store:
        """That of one sequence of several."""
        return Store(self.keys[:, number], self.values[:, number])

    def first(self, length: int) -> Store:
        """That of the first `length` positions."""
        return Store(self.keys.narrow(-1, 0, length), self.values.narrow(-2, 0, length))

    def take(self, other: Store, length: int) -> None:
        """Copy the first `length` positions of `other`."""
        for mine, theirs in zip(self.first(length), other.first(length), strict=True):
            mine.copy_(theirs)

    def look(self, at: int, first: int = 0) -> Seen:
        """What a token at position `at` of one sequence sees of the positions from `first` to its own."""
        keys, values, count = self.keys, self.values, at + 1 - first
        return Seen(keys.narrow(3, at, 1), values.narrow(2, at, 1), keys.narrow(3, first, count), values.narrow(2, first, count))


class KVCache:
    """The growing cache of one conversation, with the ids it stands for; grows by doubling up to `capacity` positions."""

    def __init__(self, config: Config, capacity: int, device: torch.device) -> None:
        self.config, self.capacity, self.device = config, capacity, device
        self.ids: list[int] = []
        self.length = 0
        self.store = Store.allocate(config, min(capacity, _ROOM), device)

    @property
    def size(self) -> int:
        """How many positions there is room for now."""
        return self.store.size

    def reserve(self, length: int) -> None:
        """Make room for `length` positions. Raises ValueError beyond the capacity."""
        if length > self.capacity:
            raise ValueError(f"{length} positions do not fit a context of {self.capacity}")
        if length > self.size:
            old = self.store
            self.store = Store.allocate(self.config, min(self.capacity, max(length + _ROOM, 2 * self.size)), self.device)
            self.store.take(old, self.length)

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
        past, end = self.length, self.length + k.shape[2]
        keys, values = self.store.keys[layer], self.store.values[layer]
        keys[:, :, past:end] = k[0].transpose(1, 2)
        values[:, past:end] = v[0]
        if not past:
            return k, v
        return keys[:, :, :end].transpose(1, 2).contiguous().unsqueeze(0), values[:, :end].unsqueeze(0)


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
