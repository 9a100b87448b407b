"""Many replies at once: continuous batching (Yu et al. 2022, "Orca"), for evaluation and red-team runs.

Some sequences are in flight together; each step reads one new token of each in one pass through the model. Whoever ends leaves at once,
and the next prompt takes the place. Prompts are read one after another through the engine's own cache, so that a beginning they share is
read once. A token depends on its own sequence and seed alone (`sampler.py`), never on its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.lm.config import Config
from assistant.lm.decode import Decoder, DenseDecoder
from assistant.lm.generate import Writer
from assistant.lm.kv_cache import KVCache, Store
from assistant.turn import Finish, ReplyToken, Sampling


@dataclass(frozen=True, slots=True)
class BatchReply:
    """What was written to the prompt number `index`."""

    index: int
    tokens: tuple[ReplyToken, ...]
    finish: Finish

    @property
    def text(self) -> str:
        """The reply as text."""
        return "".join(token.text for token in self.tokens)


class SlotCache:
    """Keys and values of several sequences of their own lengths, one a row; the rows in use are the first `len(lengths)`."""

    def __init__(self, config: Config, slots: int, capacity: int, device: torch.device) -> None:
        self.store = Store.allocate(config, capacity, device, slots)
        self.lengths: list[int] = []
        self.device = device

    def add(self, cache: KVCache) -> None:
        """Take over what `cache` holds as a new row."""
        self.store.row(len(self.lengths)).take(cache.store, cache.length)
        self.lengths.append(cache.length)

    def remove(self, row: int) -> None:
        """Free a row; the last one moves there."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if row != last:
            self.store.row(row).take(self.store.row(last), length)
        self.lengths[row] = length
        self.lengths.pop()

    def begin(self) -> tuple[Tensor, Tensor]:
        """For one new token of every row: positions (B, 1) and mask (B, 1, 1, T)."""
        positions = torch.tensor(self.lengths).to(self.device).unsqueeze(1)
        keys = torch.arange(max(self.lengths) + 1, device=self.device)
        return positions, (keys <= positions).view(len(self.lengths), 1, 1, -1)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`Cache.update` (B, K, 1, d) → (B, K, T, d): each row is written at its own end."""
        rows, at = torch.arange(len(self.lengths), device=self.device), torch.tensor(self.lengths).to(self.device)
        keys, values = self.store.keys[layer], self.store.values[layer]
        keys[rows, :, :, at] = k[:, :, 0]
        values[rows, :, at] = v[:, :, 0]
        seen = max(self.lengths) + 1
        return keys[: len(rows), :, :, :seen].transpose(2, 3).contiguous(), values[: len(rows), :, :seen]

    def advance(self) -> None:
        """Count the tokens just written."""
        self.lengths = [n + 1 for n in self.lengths]


@dataclass(slots=True)
class _Sequence:
    index: int
    writer: Writer
    tokens: list[ReplyToken]


def run(
    decoder: Decoder | DenseDecoder,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    *,
    prefill: Callable[[Sequence[int]], tuple[Tensor, int]],
    writer: Callable[[Sequence[int], Sampling], Writer],
    slots: int,
    cancel: threading.Event | None = None,
) -> Iterator[BatchReply]:
    """The replies to `prompts`, each as soon as it has ended.

    decoder: the engine's; it reads one token of every sequence. prefill: the engine's, for whole prompts, into the decoder's cache.
    Setting `cancel` ends those in flight (`finish` = `stopped`) and starts no more.
    """
    waiting = list(range(len(prompts)))[::-1]
    active: list[_Sequence] = []
    room = max((len(p) + s.max_tokens for p, s in zip(prompts, samplings, strict=True)), default=1)
    cache = decoder.cache
    store = SlotCache(cache.config, min(slots, max(len(prompts), 1)), min(room, cache.capacity) + 1, cache.device)
    while (waiting or active) and not (cancel is not None and cancel.is_set()):
        while waiting and len(active) < slots:
            index = waiting.pop()
            one = _Sequence(index, writer(prompts[index], samplings[index]), [])
            logits, _ = prefill(prompts[index])
            _take(one, logits)
            if one.writer.ended:
                yield _finished(one)
            else:
                store.add(cache)
                active.append(one)
        if not active:
            continue
        for one, state in zip(active, step(decoder, store, [one.writer.reply[-1] for one in active]), strict=True):
            _take(one, decoder.head(state)[0])
        for row in range(len(active) - 1, -1, -1):
            if active[row].writer.ended:
                yield _finished(active[row])
                store.remove(row)
                active[row] = active[-1]
                active.pop()
    for one in active:
        yield _finished(one)


@torch.inference_mode()
def step(decoder: Decoder | DenseDecoder, store: SlotCache, tokens: list[int]) -> list[Tensor]:
    """Hidden states (1, D) after one new token of each sequence."""
    if isinstance(decoder, Decoder):
        hidden = decoder.rows(tokens, [store.store.row(i) for i in range(len(tokens))], store.lengths)
    else:
        positions, mask = store.begin()
        ids = torch.tensor(tokens).to(store.device).unsqueeze(1)
        hidden = list(decoder.model(ids, positions=positions, mask=mask, cache=store))
    store.advance()
    return hidden


def _take(one: _Sequence, logits: Tensor) -> None:
    if (token := one.writer.take(logits)) is not None:
        one.tokens.append(token)


def _finished(one: _Sequence) -> BatchReply:
    if (last := one.writer.last()) is not None:
        one.tokens.append(last)
    return BatchReply(one.index, tuple(one.tokens), one.writer.finish)
