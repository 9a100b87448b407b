"""Several tokens in one pass where the text repeats itself: prompt lookup (Saxena 2023; the check is that of Leviathan et al. 2023,
arXiv:2211.17192, which with noise that depends on seed and step alone is plain equality).

The last three tokens stood there before: then what followed them is read as well, in the same pass. The rows of a packed int4 product have
the bits that they have alone (`Step.rows`), so each row's scores are those that decoding one by one would give, and the sampler chooses the
same token. When it chooses the guessed one, the next scores are there already; else they are thrown away. A pass over four rows costs more
than one over one, so the time of both decides whether guessing goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from assistant.lm.decode import Decoder

MATCH = 3
"""So many tokens must have stood there before."""
GUESSES = 3
"""So many are guessed: with the certain one they are the four rows that the int4 kernel multiplies at a time."""
REACH = 1024
"""How far back is looked."""
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 1024  # tokens
_NEWEST = 0.3
"""The part of the newest measurement in the running ones."""


class Speculator:
    """A `Decoder` that sometimes knows the next scores already. Callable: token id → logits (V,), the same as the decoder's."""

    def __init__(self, decoder: Decoder, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._decoder, self._clock = decoder, clock
        self._waiting: list[tuple[int, Tensor]] = []
        """The guessed tokens that are still possible, and the hidden states after them."""
        self._at = 0
        """Where the cache must end for them to be."""
        self._usual: float | None = None
        """Seconds of one token without guessing."""
        self._gain = 0.0
        """Seconds that a pass with guesses saved, lately."""
        self._spent, self._tokens = 0.0, 0
        self._pause, self._next_pause = 0, _FIRST_PAUSE
        self.plain = True
        """Whether the last token was decoded alone."""
        self.passes = self.guessed = 0
        """How many passes had guesses, and how many of these were right."""

    def __call__(self, token: int) -> Tensor:
        """Read `token`; returns the logits after it and advances the cache."""
        decoder, began = self._decoder, self._clock()
        cache = decoder.cache
        if self._waiting and self._waiting[0][0] == token and cache.length == self._at:
            decoder.state = self._waiting.pop(0)[1]
            cache.advance([token])
            self._at += 1
            self.guessed += 1
            self._tokens += 1
            logits = self._scores()
            self._spent += self._clock() - began
            return logits
        self._judge()
        guesses = self._guesses(token)
        self.plain = not guesses
        if not guesses:
            logits = decoder(token)
            took = self._clock() - began
            self._usual = took if self._usual is None else min(self._usual + _NEWEST * (took - self._usual), 2 * took)
            return logits
        self.passes += 1
        at, tokens = cache.length, [token, *guesses]
        cache.reserve(at + len(tokens))
        states = decoder.rows(tokens, [cache.store] * len(tokens), list(range(at, at + len(tokens))))
        cache.advance([token])
        decoder.state = states[0]
        self._waiting, self._at = list(zip(guesses, states[1:], strict=True)), at + 1
        logits = self._scores()
        self._spent, self._tokens = self._clock() - began, 1
        return logits

    @torch.inference_mode()
    def _scores(self) -> Tensor:
        return self._decoder.head(self._decoder.state)[0]

    def _guesses(self, token: int) -> list[int]:
        if self._pause:
            self._pause -= 1
            return []
        cache = self._decoder.cache
        if self._usual is None or cache.length + 1 + GUESSES > cache.capacity:
            return []
        return following([*cache.ids[-REACH:], token])

    def _judge(self) -> None:
        """The last pass with guesses has given what it could: was it worth its time?"""
        if not self._tokens or self._usual is None:
            return
        saved, self._tokens, self._waiting = self._tokens * self._usual - self._spent, 0, []
        self._gain += _NEWEST * (saved - self._gain)
        if saved < 0 and self._gain < 0:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _LONGEST_PAUSE)
            self._gain = 0.0
        elif saved > 0:
            self._next_pause = _FIRST_PAUSE


def following(ids: Sequence[int]) -> list[int]:
    """What came after the newest earlier place of the last MATCH ids: up to GUESSES ids, none where there was no such place."""
    end = len(ids) - 1
    last = list(ids[-MATCH:])
    for i in range(end - 1, MATCH - 2, -1):
        if ids[i] == last[-1] and list(ids[i - MATCH + 1 : i + 1]) == last:
            return list(ids[i + 1 : i + 1 + GUESSES])
    return []


def speculator(decoder: object) -> Speculator | None:
    """One for `decoder`, where every product gives each row the bits it has alone: all matrices are packed int4, for the CPU."""
    if not isinstance(decoder, Decoder) or decoder.cache.device.type != "cpu":
        return None
    matrices = [m for layer in decoder.step.layers for m in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    return Speculator(decoder) if all(m.scales is not None and m.weight.dtype != torch.int8 for m in matrices) else None
