"""What a step of training reads, as a function of (seed, step) alone: a run that was killed goes on with the very batch it would have had.

Two ways to fill windows of L tokens. `Stream`: all documents one after another in a new order every epoch, cut every L tokens; nothing is
wasted, and a window may hold several documents. `Packed`: whole documents side by side, each seeing only itself and each with its own
positions; for conversations, where a beginning that was cut off would teach nonsense.
The order is Philox noise (Salmon et al. 2011) keyed by (seed, epoch): there is no generator whose state could be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assistant.errors import UsageError

IGNORE = -100
"""The target of a position that is not learnt from."""


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, and which of them are to be predicted (None: all)."""

    ids: NDArray[np.int32]
    learn: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step reads. `positions` and `documents` (B, L) are given when windows hold documents that must not see each other."""

    ids: Tensor  # (B, L)
    targets: Tensor  # (B, L), IGNORE where nothing is learnt
    positions: Tensor | None = None
    documents: Tensor | None = None

    def part(self, index: int, parts: int) -> Batch:
        """Every `parts`-th window, beginning with `index`: the share of a process, or of one round of accumulation."""

        def share(t: Tensor | None) -> Tensor | None:
            return None if t is None else t[index::parts]

        return Batch(self.ids[index::parts], self.targets[index::parts], share(self.positions), share(self.documents))

    def mask(self) -> Tensor | None:
        """(B, 1, L, L): True where a query may look, in its own document and not ahead; None for plain causal."""
        if self.documents is None:
            return None
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        return (causal & (self.documents.unsqueeze(2) == self.documents.unsqueeze(1))).unsqueeze(1)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        return Batch(self.ids.to(device), self.targets.to(device), move(self.positions), move(self.documents))


class Batches(Protocol):
    """Batches by number."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """After how many steps everything has been read once."""
        ...


def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(count)


class _Shuffled:
    """Row numbers 0 … rows − 1 in a new order every epoch."""

    def __init__(self, rows: int, size: int, seed: int) -> None:
        self.rows, self.size, self.seed = rows, size, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    @property
    def steps_per_epoch(self) -> float:
        """After how many steps everything has been read once."""
        return self.rows / self.size

    def numbers(self, step: int) -> list[tuple[int, int]]:
        """(epoch, row) of each window of a step."""
        out = []
        for i in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(i, self.rows)
            if epoch != self._epoch:
                self._epoch, self._permutation = epoch, _order(self.seed + 1, epoch, self.rows)
            out.append((epoch, int(self._permutation[place])))
        return out


class Stream(_Shuffled):
    """Documents one after another, cut every `context` tokens."""

    def __init__(self, documents: Sequence[Document], context: int, size: int, seed: int = 0) -> None:
        total = sum(len(d.ids) for d in documents)
        if total <= context:
            raise UsageError(f"the corpus has {total} tokens, fewer than one context of {context}: give more text, or a smaller --context")
        super().__init__((total - 1) // context, size, seed)
        self.documents, self.context = documents, context
        self._joined: tuple[int, NDArray[np.int32], NDArray[np.bool_] | None] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        length, rows, targets = self.context, [], []
        for epoch, row in self.numbers(step):
            ids, learn = self._epoch_stream(epoch)
            at = row * length
            rows.append(ids[at : at + length])
            following = ids[at + 1 : at + 1 + length]
            targets.append(following if learn is None else np.where(learn[at + 1 : at + 1 + length], following, IGNORE))
        return Batch(torch.from_numpy(np.stack(rows)).long(), torch.from_numpy(np.stack(targets)).long())

    def _epoch_stream(self, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
        if self._joined is None or self._joined[0] != epoch:
            ordered = [self.documents[i] for i in _order(self.seed, epoch, len(self.documents))]
            learn = None
            if any(d.learn is not None for d in ordered):
                learn = np.concatenate([np.ones(len(d.ids), np.bool_) if d.learn is None else d.learn for d in ordered])
            self._joined = epoch, np.concatenate([d.ids for d in ordered]), learn
        return self._joined[1], self._joined[2]


class Packed(_Shuffled):
    """Whole documents side by side in windows of `context`; what is longer is cut at the end."""

    def __init__(self, documents: Sequence[Document], context: int, size: int, seed: int = 0) -> None:
        rows: list[list[Document]] = []
        room = 0
        for number in _order(seed, 0, len(documents)):
            document = documents[number]
            if len(document.ids) < 2:
                continue
            length = min(len(document.ids) - 1, context)
            if length > room:
                rows.append([])
                room = context
            rows[-1].append(document)
            room -= length
        if not rows:
            raise UsageError("there is nothing to learn from: every document is empty")
        super().__init__(len(rows), size, seed)
        self.packed, self.context = rows, context

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        arrays = [self._row(row) for _, row in self.numbers(step)]
        ids, targets, positions, documents = (torch.from_numpy(np.stack(part)).long() for part in zip(*arrays, strict=True))
        return Batch(ids, targets, positions, documents)

    def _row(self, row: int) -> tuple[NDArray[np.int64], ...]:
        ids, positions, documents = (np.zeros(self.context, np.int64) for _ in range(3))
        targets = np.full(self.context, IGNORE, np.int64)
        at = 0
        for number, document in enumerate(self.packed[row], 1):
            length = min(len(document.ids) - 1, self.context)
            part = slice(at, at + length)
            ids[part], following = document.ids[:length], document.ids[1 : length + 1]
            targets[part] = following if document.learn is None else np.where(document.learn[1 : length + 1], following, IGNORE)
            positions[part], documents[part] = np.arange(length), number
            at += length
        return ids, targets, positions, documents
