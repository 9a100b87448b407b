"""The classifier of the guard: character and word n-grams, and, where it is installed, the encoder that reads meaning.

Both give every category a logit; for each role and language they are blended:

    risk = w · [greatest n-gram logit, greatest encoder logit, encoder's "unsafe" logit] + b
    mₖ = w₁ · n-gramₖ + w₂ · encoderₖ          which category it is
    logitₖ = risk − (max m − mₖ)               the deciding category carries the whole risk, the others less

The weights were fitted on rows kept aside from training (see MODEL_CARD.md). The n-grams read every window of a text.
The encoder, which costs more, reads a text of up to two of its windows whole; of a longer one the beginning, the end
and the window that the n-grams suspect most.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from safety.classifier import Classifier, Score

if TYPE_CHECKING:
    from safety.reader import Reader

QUIET = 0.2
"""Where a quick look may stop: no n-gram score reaches this."""
WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]")
"""A word, a Chinese character or a mark: what is explained as one piece."""
_UNITS = 64
_KEPT = 2048  # texts whose encoder logits are remembered
LONG, _LONG_FROM = 2.0, 260
"""How much less a long prompt's risk is believed, and from how many characters on (the whole from twice as many). Hardly any long
harmless prose was there to learn from, so length itself had become a sign of attack; chosen on the long documents of the dev file."""
Span = tuple[int, int]


class Ensemble:
    """Scores of every category for a (folded) text."""

    def __init__(self, ngrams: Classifier, reader: Reader | None = None, blend: dict[str, list[float]] | None = None) -> None:
        """`blend` maps `role.language` to the three weights and b; without a `reader` the n-grams decide alone."""
        self.ngrams, self.reader, self._blend = ngrams, reader, blend or {}
        self.labels = ngrams.labels
        self._seen: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def scores(self, text: str, role: str, language: str, *, quick: bool = False, tail: bool = False) -> list[Score]:
        """Every category's score and the characters it was read from. `quick` leaves the encoder out while the n-grams
        see nothing; `tail` lets it read the end only (the beginning was read before)."""
        alone = self.ngrams.scores(text, role, language)
        if self.reader is None or (quick and max(score.value for score in alone) < QUIET):
            return alone
        logit = np.array([_logit(score.value) for score in alone])
        places = self._places(text, alone, tail)
        read = self.read([text[start:end] for start, end in places], role)  # (windows, outputs)
        best, names = read[:, :-1].argmax(0), self.labels
        encoder, unsafe = read[:, :-1].max(0), float(read[:, -1].max())
        risk, which = self._mix(logit, encoder, unsafe, role, language)
        if role == "prompt":
            risk -= LONG * min(1.0, max(0.0, sum(end - start for start, end in places) / _LONG_FROM - 1))
        blended = risk - (which.max() - which)
        out = []
        for i, name in enumerate(names):
            where = places[best[i]] if encoder[i] > logit[i] else (alone[i].start, alone[i].end)
            out.append(Score(name, float(1 / (1 + np.exp(-np.clip(blended[i], -30, 30)))), *where))
        return out

    def explain(self, text: str, role: str, language: str, label: str) -> tuple[NDArray[np.float64], float]:
        """One weight a character of a (folded) text, and a rest; together they sum to the logit of `label`.

        The n-grams' share is exact. The encoder's share of a word is what its logits lose when the word is left out
        (occlusion); what words do only together stays in the rest.
        """
        alone = {score.label: score for score in self.ngrams.scores(text, role, language)}
        chosen = alone[label]
        weights = np.zeros(len(text) + 1)
        if self.reader is None:
            found, bias = self.ngrams.explain(text[chosen.start : chosen.end], role, language, label)
            weights[chosen.start : chosen.start + len(found)] += found
            return weights, bias
        first, second, third, _ = self._blend[f"{role}.{language}"]
        found, _ = self.ngrams.explain(text[chosen.start : chosen.end], role, language, label)
        weights[chosen.start : chosen.start + len(found)] += first * found
        column = self.labels.index(label)
        places = self._places(text, list(alone.values()), False)
        mix = np.array([second * row[column] + third * row[-1] for row in self.read([text[a:b] for a, b in places], role)])
        start, end = places[int(mix.argmax())]
        piece = text[start:end]
        units = _units(piece)
        if units:
            left = self.reader.logits([piece[:a] + piece[b:] for a, b in units], role)
            lost = mix.max() - (second * left[:, column] + third * left[:, -1])
            for (a, b), share in zip(units, lost, strict=True):
                weights[start + a : start + b] += share / (b - a)
        value = next(s.value for s in self.scores(text, role, language) if s.label == label)
        return weights, _logit(value) - float(weights.sum())

    def read(self, texts: Sequence[str], role: str) -> NDArray[np.float32]:
        """The encoder's logits (texts, outputs) for pieces of at most its window. What was read lately is remembered."""
        assert self.reader is not None
        with self._lock:
            missing = list(dict.fromkeys(text for text in texts if (role, text) not in self._seen))
            if missing:
                for text, logits in zip(missing, self.reader.logits(missing, role), strict=True):
                    self._seen[role, text] = logits
            out = np.stack([self._seen[role, text] for text in texts])
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return out

    def parts(self, text: str, role: str, language: str) -> tuple[float, float, float]:
        """What the risk is blended of: the greatest n-gram logit, the greatest encoder logit, "unsafe"."""
        alone = self.ngrams.scores(text, role, language)
        read = self.read([text[start:end] for start, end in self._places(text, alone, False)], role)
        return max(_logit(score.value) for score in alone), float(read[:, :-1].max()), float(read[:, -1].max())

    def _mix(
        self, ngrams: NDArray[np.float64], encoder: NDArray[np.float32], unsafe: float, role: str, language: str
    ) -> tuple[float, NDArray[np.float64]]:
        first, second, third, bias = self._blend[f"{role}.{language}"]
        risk = first * float(ngrams.max()) + second * float(encoder.max()) + third * unsafe + bias
        return risk, first * ngrams + second * encoder

    def _places(self, text: str, alone: Sequence[Score], tail: bool) -> list[Span]:
        """The pieces that the encoder reads."""
        assert self.reader is not None
        room = self.reader.room
        if len(text) <= room // 4:
            return [(0, len(text))]
        if tail:
            _, offsets = self.reader.tokens(text[-12 * room :])
            start = offsets[-room][0] if len(offsets) > room else 0
            return [(max(0, len(text) - 12 * room) + start, len(text))]
        _, first = self.reader.tokens(text[: 12 * room])
        if len(first) <= room:
            return [(0, min(len(text), 12 * room))]
        if len(first) <= 2 * room and len(text) <= 12 * room:
            return [(0, first[room - 1][1]), (first[len(first) - room][0], len(text))]
        suspect = max(alone, key=lambda score: score.value)
        middle = (suspect.start + suspect.end) // 2
        start = max(0, middle - 2 * room)
        _, around = self.reader.tokens(text[start : start + 6 * room])
        return [
            (0, first[room - 1][1] if len(first) >= room else len(text)),
            (start, start + around[min(room, len(around)) - 1][1]) if around else (0, len(text)),
            *self._places(text, alone, True),
        ]

    def prepare(self, texts: Sequence[str], role: str) -> None:
        """Read many short (folded) texts at once; single looks at them then find it done."""
        if self.reader is None:
            return
        room = self.reader.room
        whole = [t for t in texts if len(t) <= room // 4 or (len(t) <= 12 * room and len(self.reader.tokens(t)[0]) <= room)]
        if whole:
            self.read(whole, role)


def _units(text: str) -> list[Span]:
    """The words (Chinese: characters) of a text, neighbours together where there are more than are tried."""
    words = [match.span() for match in WORD.finditer(text)]
    size = -(-len(words) // _UNITS) or 1
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _logit(value: float) -> float:
    value = min(max(value, 1e-9), 1 - 1e-9)
    return float(np.log(value / (1 - value)))
