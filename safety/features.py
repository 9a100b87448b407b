"""What the classifier sees of a text: hashed runs of characters and of words, each with the place where it stands.

The text comes already folded (`normalize.base_view`). Everything is vectorised: a message costs tens of microseconds.
"""

from __future__ import annotations

import re
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
    """All features of one window."""
    codes = _codes(text)
    han = (codes >= 0x3400) & (codes < 0xA000)
    ids, starts, ends = [], [], []
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(6, _BASE, np.uint64))
        for n in range(1, 6):
            count = len(codes) - n + 1
            if count <= 0:
                break
            total = np.zeros(count, np.uint64)
            for k in range(n):
                total += codes[k : k + count] * powers[n - k]
            where = np.arange(count)
            if n < 3:  # short runs say something in Chinese only
                where = where[han[:count]]
            ids.append(_bucket(total[where] + np.uint64(n)))
            starts.append(where)
            ends.append(where + n)
        words = [(m.start() + 1, m.end() + 1) for m in _WORD.finditer(text)]
        if words:
            places = np.array(words)
            hashes = _word_hashes(codes, places)
            for gap, salt in ((0, 101), (1, 102), (2, 103), (3, 104)):  # a word, with the next, with the ones after
                if gap >= len(hashes):
                    break
                left, right = hashes[: len(hashes) - gap], hashes[gap:]
                pair = left * _MIX + right * _BASE * np.uint64(min(gap, 1)) + np.uint64(salt if gap < 2 else 103)
                ids.append(_bucket(pair))
                starts.append(places[: len(hashes) - gap, 0])
                ends.append(places[gap:, 1])
    return Features(
        np.concatenate(ids) if ids else np.zeros(0, np.int64),
        np.clip((np.concatenate(starts) if starts else np.zeros(0, np.int64)) - 1, 0, len(text)),
        np.clip((np.concatenate(ends) if ends else np.zeros(0, np.int64)) - 1, 0, len(text)),
    )


def bag(text: str) -> NDArray[np.int64]:
    """The distinct buckets of one window."""
    return np.unique(extract(text).buckets)


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
