"""How many threads decode a token: all cores while they are free, fewer while another program has one of them.

The threads of a product wait for each other at its end, some two hundred times a token. When another program has the core of one
of them, all wait for the scheduler: two threads on two cores, one of which is taken, write a tenth of the tokens, one thread alone
two thirds. Nothing tells beforehand which cores will be free, so the time of each token does: when tokens become slow, fewer
threads are tried for two of them; when few threads are at work, more are tried now and then, ever more seldom while that fails.
The quantised kernels give every row the same bits whatever the number of threads, so that no reply depends on it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")

_TRIAL = 2
"""Tokens of a trial. The faster of them counts, as it counts of the last two: anything may hold up one."""
_SLOWER = 1.3
"""So much slower than it was means that something has changed."""
_HOPELESS = 1.5
"""So much slower ends a trial before its last token."""
_AWAKENING = 2.5
"""So much slower for its first: a thread that comes back has to wake, and to fetch its share of the weights."""
_COLD = 2
"""The first tokens of a reply tell nothing: what they read is not in the processor's caches."""
_BETTER, _NO_WORSE = 0.9, 1.1
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 8.0  # seconds
_ADJUSTABLE = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
"""Other builds of torch take the number of threads only once."""
_DRIFT = 0.1
"""How quickly what counts as normal follows a context that grows."""


class Pace:
    """Chooses the number of threads, token by token, for one engine, between `begin` and `end`."""

    def __init__(
        self, most: int, *, clock: Callable[[], float] = time.perf_counter, use: Callable[[int], None] = torch.set_num_threads,
        comparable: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        """`most`: the threads that everything but decoding uses. `comparable`: whether the token just decoded says what one costs."""
        self._comparable = comparable
        self._counts = ladder(most) if _ADJUSTABLE else [most]
        self._clock, self._use = clock, use
        self._at = 0
        self._trying: int | None = None
        self._cold = _COLD
        self._recent: list[float] = []
        self._tried: list[float] = []
        self._normal: float | None = None
        """Seconds of a token with the present count; None before the first comparison."""
        self._wait = _FIRST_WAIT
        self._next_trial = 0.0

    @property
    def threads(self) -> int:
        """What the next token uses."""
        return self._counts[self._at if self._trying is None else self._trying]

    def begin(self) -> None:
        """A reply begins: what the last one's tokens took says nothing any more of how they come now."""
        self._recent.clear()
        self._tried.clear()
        self._trying, self._cold = None, _COLD

    def end(self) -> None:
        """The reply has ended: the rest of the program has all threads again."""
        if len(self._counts) > 1:
            self._use(self._counts[0])

    def token(self, decode: Callable[[], T]) -> T:
        """What `decode` returns, run with the threads that suit now. It must take about as long each time that it was `comparable`."""
        if len(self._counts) == 1:
            return decode()
        self._use(self.threads)
        began = self._clock()
        out = decode()
        now = self._clock()
        if self._comparable():
            self._learn(now - began, now)
        return out

    def _learn(self, seconds: float, now: float) -> None:
        if self._cold:
            self._cold -= 1
            return
        if self._trying is not None:
            self._judge(seconds, now)
            return
        self._recent = [*self._recent[-1:], seconds]
        if len(self._recent) < _TRIAL:
            return
        usual = min(self._recent)
        if self._normal is None or (usual > _SLOWER * self._normal and now >= self._next_trial):
            self._trying = min(self._at + 1, len(self._counts) - 1) if self._at + 1 < len(self._counts) else self._at - 1
        elif self._at > 0 and now >= self._next_trial:
            self._trying = self._at - 1
        elif usual <= _SLOWER * self._normal:
            self._normal += _DRIFT * (usual - self._normal)

    def _judge(self, seconds: float, now: float) -> None:
        """One more token of a trial: go on, stay with the new count, or go back."""
        assert self._trying is not None
        usual = min(self._recent)
        self._tried.append(seconds)
        if len(self._tried) < _TRIAL and seconds <= (_AWAKENING if len(self._tried) == 1 else _HOPELESS) * usual:
            return
        best, fewer = min(self._tried), self._trying > self._at
        more_below = fewer and self._trying + 1 < len(self._counts)
        self._tried = []
        if best < _BETTER * usual:  # and if still fewer are left, compare with those too
            self._at, self._recent, self._normal, self._wait = self._trying, [], None if more_below else best, _FIRST_WAIT
        elif more_below and best < _NO_WORSE * usual:
            self._trying += 1  # one thread fewer was not enough
            return
        else:
            self._normal, self._wait = usual, min(2 * self._wait, _LONGEST_WAIT)
        self._next_trial = now + self._wait
        self._trying = None


def ladder(most: int) -> list[int]:
    """The numbers of threads worth trying: all, one fewer, then halves."""
    counts = {most, max(most - 1, 1), 1}
    while (most := most // 2) > 1:
        counts.add(most)
    return sorted(counts, reverse=True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums inside come in one order, whatever the number of threads outside."""
    threads = torch.get_num_threads() if _ADJUSTABLE else 1
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
