"""The classifier of the guard: character and word n-grams, and, where it is installed, the encoder that reads meaning.

Both give every category a logit; they are blended, for prompts, replies and replies that are read with their prompt
(`answer`) in each language:

    risk = w · [greatest n-gram logit, greatest encoder logit, encoder's "unsafe" logit, log₂ windows] + b
    mₖ = w₁ · n-gramₖ + w₂ · encoderₖ          which category it is
    logitₖ = risk − (max m − mₖ)               the deciding category carries the whole risk, the others less

The more windows a text has, the more chances has chance: hence the last of the four. The weights were fitted on rows kept
aside from training (see MODEL_CARD.md). The n-grams read every window of a text. The encoder, which costs more, reads
every window of a text of up to `MOST` of them (the worst `DEEP` of them to its last layer); of a longer one the beginning,
the end and the windows that the n-grams suspect most.
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
from safety.turnstile import Turnstile

if TYPE_CHECKING:
    from safety.reader import Reader

QUIET = 0.2
"""Where a quick look may stop: no n-gram score reaches this."""
WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]")
"""A word, a Chinese character or a mark: what is explained as one piece."""
_UNITS = 64
_CHARACTERS = 12  # hardly any text has more characters to a token
_KEPT = 2048  # texts whose encoder logits are remembered
_TOGETHER = 192  # tokens that are read at once for several threads: of long texts nothing is saved by that
OVERLAP = 16
"""Tokens that two windows share."""
MOST, DEEP = 8, 2
KINDS = ("prompt", "response", "answer")
"""What is judged: an answer is a reply that is read with its prompt, which is done where a blend for it was fitted."""
FLOOR = -6.0
"""The n-grams cannot be surer than this that a text is harmless: in a long one their sum runs away."""
FEATURES = 4
"""What the risk is blended of, without b."""
Span = tuple[int, int]


class Ensemble:
    """Scores of every category for a (folded) text."""

    def __init__(self, ngrams: Classifier, reader: Reader | None = None, blend: dict[str, list[float]] | None = None) -> None:
        """`blend` maps `kind.language` to the four weights and b; without a `reader` the n-grams decide alone."""
        self.ngrams, self.reader, self._blend = ngrams, reader, blend or {}
        self.labels = ngrams.labels
        self._seen: OrderedDict[tuple[str, str, str], NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns = Turnstile(self._read_all, _TOGETHER)

    def scores(self, text: str, role: str, language: str, *, prompt: str = "", quick: bool = False, tail: bool = False) -> list[Score]:
        """Every category's score and the characters it was read from. A reply is read with its (folded) `prompt` where that
        is given. `quick` leaves the encoder out while the n-grams see nothing; `tail` lets it read the end only (the
        beginning was read before)."""
        prompt = prompt if f"answer.{language}" in self._blend else ""
        alone = self.ngrams.scores(text, role, language)
        if self.reader is None or (quick and max(score.value for score in alone) < QUIET):
            return alone
        logit = np.array([_logit(score.value) for score in alone])
        places = self._places(text, alone, tail, prompt)
        read = self.read([text[start:end] for start, end in places], role, prompt)  # (windows, outputs)
        best, names = read[:, :-1].argmax(0), self.labels
        encoder = read[:, :-1].max(0)
        weights = self._blend[kind(role, prompt, language)]
        risk = float(np.dot(weights, [*_features(logit, read), 1.0]))
        which = weights[0] * logit + weights[1] * encoder
        blended = risk - (which.max() - which)
        values = (1 / (1 + np.exp(-np.clip(blended, -30, 30)))).tolist()
        return [
            Score(name, values[i], *(places[best[i]] if encoder[i] > logit[i] else (alone[i].start, alone[i].end)))
            for i, name in enumerate(names)
        ]

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
        first, second, third, *_ = self._blend[kind(role, "", language)]
        found, _ = self.ngrams.explain(text[chosen.start : chosen.end], role, language, label)
        weights[chosen.start : chosen.start + len(found)] += first * found
        column = self.labels.index(label)
        places = self._places(text, list(alone.values()), False)
        read = self.reader.logits([text[a:b] for a, b in places], role, whole=True)
        mix = np.array([second * row[column] + third * row[-1] for row in read])
        start, end = places[int(mix.argmax())]
        piece = text[start:end]
        units = _units(piece)
        if units:
            left = self.reader.logits([piece[:a] + piece[b:] for a, b in units], role, whole=True)
            lost = mix.max() - (second * left[:, column] + third * left[:, -1])
            for (a, b), share in zip(units, lost, strict=True):
                weights[start + a : start + b] += share / (b - a)
        value = next(s.value for s in self.scores(text, role, language) if s.label == label)
        return weights, _logit(value) - float(weights.sum())

    def read(self, texts: Sequence[str], role: str, prompt: str = "", *, together: bool = True) -> NDArray[np.float32]:
        """The encoder's logits (texts, outputs) for pieces of at most its window, `together` windows of one text. What was
        read lately is remembered."""
        assert self.reader is not None
        with self._lock:
            known = {text: seen for text in texts if (seen := self._seen.get((role, prompt, text))) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            most = DEEP if together and len(texts) > DEEP else None
            rows = self.reader.rows(missing, prompt)
            weight = sum(map(len, rows)) if most is None else _TOGETHER
            known |= zip(missing, self._turns.do((rows, role, most), weight, first=role == "prompt"), strict=True)
            with self._lock:
                self._seen.update(((role, prompt, text), known[text]) for text in missing)
                while len(self._seen) > _KEPT:
                    self._seen.popitem(last=False)
        return np.stack([known[text] for text in texts])

    def _read_all(self, asked: Sequence[tuple[list[list[int]], str, int | None]]) -> list[NDArray[np.float32]]:
        """The encoder's logits of what several threads asked for, all of one role: token ids, role, how many to the last layer."""
        assert self.reader is not None
        _, role, most = asked[0]
        read = self.reader.logits_of([row for rows, _, _ in asked for row in rows], role, most=most if len(asked) == 1 else None)
        return np.split(read, np.cumsum([len(rows) for rows, _, _ in asked])[:-1])

    def forget(self) -> None:
        """Forget what was read lately, so that what comes next depends on itself alone."""
        with self._lock:
            self._seen.clear()

    def parts(self, text: str, role: str, language: str, prompt: str = "") -> list[float]:
        """What the risk is blended of (`FEATURES` numbers)."""
        alone = self.ngrams.scores(text, role, language)
        places = self._places(text, alone, False, prompt)
        read = self.read([text[start:end] for start, end in places], role, prompt)
        return _features(np.array([_logit(score.value) for score in alone]), read)

    def _places(self, text: str, alone: Sequence[Score], tail: bool, prompt: str = "") -> list[Span]:
        """The pieces that the encoder reads."""
        assert self.reader is not None
        room = self.reader.room(prompt)
        if len(text) <= room // 4:
            return [(0, len(text))]
        reach = _CHARACTERS * room
        if tail:
            _, offsets = self.reader.tokens(text[-reach:])
            start = offsets[-room][0] if len(offsets) > room else 0
            return [(max(0, len(text) - reach) + start, len(text))]
        _, first = self.reader.tokens(text[: MOST * reach])
        count = len(first)
        if count <= room:
            return [(0, min(len(text), MOST * reach))]
        if count <= MOST * (room - OVERLAP) + OVERLAP and len(text) <= MOST * reach:
            windows = -(-(count - OVERLAP) // (room - OVERLAP))  # so many, evenly spread
            starts = [round(i * (count - room) / (windows - 1)) for i in range(windows)]
            return [(first[a][0] if a else 0, first[a + room - 1][1] if a + room < count else len(text)) for a in starts]
        chosen = {(0, first[room - 1][1]): None, self._places(text, alone, True, prompt)[0]: None}
        for score in sorted(alone, key=lambda score: -score.value):
            start = max(0, (score.start + score.end) // 2 - 2 * room)
            _, around = self.reader.tokens(text[start : start + 6 * room])
            if around and len(chosen) < MOST:
                chosen[start, start + around[min(room, len(around)) - 1][1]] = None
        return list(chosen)

    def prepare(self, texts: Sequence[str], role: str) -> None:
        """Read many short (folded) texts at once; single looks at them then find it done."""
        if self.reader is None:
            return
        room = self.reader.room()
        whole = [t for t in texts if len(t) <= room // 4 or (len(t) <= _CHARACTERS * room and len(self.reader.tokens(t)[0]) <= room)]
        if whole:
            self.read(whole, role, together=False)


def kind(role: str, prompt: str, language: str) -> str:
    """Which blend is used."""
    return f"{'answer' if prompt and role == 'response' else role}.{language}"


def _features(ngrams: NDArray[np.float64], read: NDArray[np.float32]) -> list[float]:
    return [max(float(ngrams.max()), FLOOR), float(read[:, :-1].max()), float(read[:, -1].max()), float(np.log2(len(read)))]


def _units(text: str) -> list[Span]:
    """The words (Chinese: characters) of a text, neighbours together where there are more than are tried."""
    words = [match.span() for match in WORD.finditer(text)]
    size = -(-len(words) // _UNITS) or 1
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _logit(value: float) -> float:
    value = min(max(value, 1e-9), 1 - 1e-9)
    return float(np.log(value / (1 - value)))
