"""What is taken out of a corpus before anything learns from it: what is there twice, nearly twice, or is somebody's personal data.

Nearly the same: two texts whose sets of five-character shingles overlap by more than a threshold (Jaccard). MinHash (Broder 1997) finds the
candidates without comparing all pairs: the chance that two sets share the smallest hash is their overlap, and bands of several such minima
are compared through a table. Candidates are then compared exactly. Short texts (a greeting) are compared as a whole only: "I am Tom" and
"I am Tim" are two sentences. Personal data and secrets are found by the guard's own detectors and replaced by placeholders.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from assistant.training.corpus import Text
from assistant.turn import Message
from safety.pii import find_pii
from safety.redact import Vault, redact
from safety.secrets import find_secrets

SHINGLE, BANDS, ROWS = 5, 16, 4
NEAR = 0.8
"""Texts whose shingles overlap by more than this are taken for one."""
SHORT = 60
"""Texts of fewer characters are only compared as a whole."""
_PRIME = (1 << 61) - 1


@dataclass(slots=True)
class Cleaned:
    """What was kept, and what was done to the rest."""

    kept: list[int] = field(default_factory=list)
    """Numbers of the documents that stay."""
    texts: list[Text] = field(default_factory=list)
    """The documents that stay, without personal data."""
    exact: int = 0
    near: int = 0
    personal: dict[str, int] = field(default_factory=dict)
    """How many finds of each kind were replaced."""


def clean(texts: Sequence[Text], *, scrub: bool = True, deduplicate: bool = True, near: float = NEAR) -> Cleaned:
    """Take out duplicates (the first one stays) and, with `scrub`, personal data and secrets."""
    out, seen, found = Cleaned(), set[str](), Counter[str]()
    index = _Index(near)
    for number, text in enumerate(texts):
        if deduplicate:
            key = " ".join(text.key.split()).casefold()
            if key in seen:
                out.exact += 1
                continue
            seen.add(key)
            if len(key) >= SHORT and index.has_or_add(key):
                out.near += 1
                continue
        out.kept.append(number)
        out.texts.append(_scrubbed(text, found) if scrub else text)
    out.personal = dict(found)
    return out


class _Index:
    """Texts by their MinHash bands."""

    def __init__(self, near: float) -> None:
        random = np.random.Generator(np.random.Philox(key=20))
        self._near = near
        self._a = random.integers(1, 1 << 31, BANDS * ROWS, dtype=np.uint64)
        self._b = random.integers(0, 1 << 61, BANDS * ROWS, dtype=np.uint64)
        self._tables: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
        self._sets: list[frozenset[int]] = []

    def has_or_add(self, text: str) -> bool:
        """Whether a text that overlaps enough was seen before; if not, remember this one."""
        shingles = frozenset(zlib.crc32(text[i : i + SHINGLE].encode("utf-8", "replace")) for i in range(len(text) - SHINGLE + 1))
        signature = self._signature(shingles)
        bands = [signature[i * ROWS : (i + 1) * ROWS].tobytes() for i in range(BANDS)]
        candidates = {c for table, band in zip(self._tables, bands, strict=True) for c in table.get(band, ())}
        if any(_overlap(self._sets[c], shingles) > self._near for c in candidates):
            return True
        for table, band in zip(self._tables, bands, strict=True):
            table.setdefault(band, []).append(len(self._sets))
        self._sets.append(shingles)
        return False

    def _signature(self, shingles: frozenset[int]) -> NDArray[np.uint64]:
        """The smallest hash of all shingles under each of the hash functions a·x + b mod p: (BANDS · ROWS,)."""
        x = np.fromiter(shingles, np.uint64, len(shingles))
        smallest: NDArray[np.uint64] = ((self._a[:, None] * x + self._b[:, None]) % np.uint64(_PRIME)).min(1)
        return smallest


def _overlap(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b)


def _scrubbed(text: Text, found: Counter[str]) -> Text:
    vault = Vault()
    if text.messages:
        return replace(text, messages=tuple(Message(m.role, _hide(m.text, vault, found)) for m in text.messages))
    return replace(text, text=_hide(text.text, vault, found))


def _hide(text: str, vault: Vault, found: Counter[str]) -> str:
    spans = sorted([*find_pii(text), *find_secrets(text)], key=lambda span: (span.start, -span.end))
    found.update(span.kind for span in spans)
    return redact(text, spans, vault) if spans else text
