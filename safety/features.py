"""What the classifier sees of a text: hashed runs of characters and of words, each with the place where it stands.

The text comes already folded (`normalize.base_view`). Everything is vectorised: a message costs tens of microseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 18
WINDOW, STEP = 960, 480
"""Longer texts are read in overlapping windows of this many characters, so that padding hides nothing."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_WORD = re.compile(r"[a-z][a-z']*")
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Features:
    """Bucket numbers, and for each the characters `[starts, ends)` that it was made of."""

    buckets: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def windows(length: int) -> list[tuple[int, int]]:
    """The windows `[start, end)` in which a text of this length is read; the last one ends where the text does."""
    if length <= WINDOW:
        return [(0, length)]
    return [(start, start + WINDOW) for start in range(0, length - WINDOW, STEP)] + [(length - WINDOW, length)]


def extract(text: str) -> Features:
    """All features of one window, with their places."""
    hashes, starts, widths = [], [], []
    for values, start, width in _runs(text):
        hashes.append(values)
        starts.append(start)
        widths.append(width)
    if not hashes:
        nothing = np.zeros(0, np.int64)
        return Features(nothing, nothing, nothing)
    first = np.concatenate(starts) - 1
    return Features(
        _bucket(np.concatenate(hashes)),
        np.clip(first, 0, len(text)),
        np.clip(first + np.concatenate(widths), 0, len(text)),
    )


def _runs(text: str) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]]:
    """Hashes of runs of one to five characters and of words, where they start and how long they are."""
    codes = _codes(text)
    han = (codes >= 0x3400) & (codes < 0xA000)
    total = np.zeros(len(codes), np.uint64)
    for n in range(1, 6):  # the hash of a run is that of the run one shorter, times the base, plus the next character
        count = len(codes) - n + 1
        if count <= 0:
            break
        total = (total[:count] + codes[n - 1 :]) * _BASE
        where = np.flatnonzero(han[:count]) if n < 3 else np.arange(count)  # short runs say something in Chinese only
        if len(where):
            yield total[where] * _BASE + np.uint64(n), where, np.full(len(where), n)
    words = [place for m in _WORD.finditer(text) for place in m.span()]
    if not words:
        return
    places = np.array(words).reshape(-1, 2) + 1
    hashes = _word_hashes(codes, places)
    for gap, salt in ((0, 101), (1, 102), (2, 103), (3, 103)):  # a word, with the next, with the ones after
        if gap >= len(hashes):
            return
        left, right = hashes[: len(hashes) - gap] * _MIX, hashes[gap:] * _BASE
        pair = left + (right if gap else np.uint64(0)) + np.uint64(salt)
        start = places[: len(hashes) - gap, 0]
        yield pair, start, places[gap:, 1] - start


def scale(count: int) -> float:
    """What the sum of weights is divided by: the root of their number, and a little, lest one odd character decides."""
    return math.sqrt(count + 8)


def bag(text: str) -> NDArray[np.int64]:
    """The distinct buckets of one window."""
    hashes = [values for values, _, _ in _runs(text)]
    return np.unique(_bucket(np.concatenate(hashes))) if hashes else np.zeros(0, np.int64)


def _codes(text: str) -> NDArray[np.uint64]:
    """Code points with a space at either end; all digits are one digit."""
    plain = _DIGITS.sub(lambda m: "0" * len(m[0]), text).replace("\n", " ")
    return np.frombuffer(f" {plain} ".encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)


def _word_hashes(codes: NDArray[np.uint64], places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One hash a word: a sum of letters weighted by place, through running sums."""
    letters = codes * _MIX ^ (codes << np.uint64(31))
    position = np.arange(len(codes), dtype=np.uint64)
    plain = np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters)])
    placed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters * position)])
    start, end = places[:, 0], places[:, 1]
    flat = plain[end] - plain[start]
    hashes: NDArray[np.uint64] = placed[end] - placed[start] - flat * start.astype(np.uint64) + flat * _BASE
    return hashes


def _bucket(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    mixed = (values ^ (values >> np.uint64(32))) * _MIX
    return ((mixed ^ (mixed >> np.uint64(29))) * _BASE >> np.uint64(46)).astype(np.int64)
