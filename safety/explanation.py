"""Why the classifier scored a text as it did, word by word: exact for the n-grams, by leaving words out for the encoder
(see `Ensemble.explain`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from safety.ensemble import WORD, Ensemble
from safety.language import detect
from safety.normalize import base_view
from safety.rules import Role


class Weight(TypedDict):
    """One word, character or mark of the text and what it added to the logit."""

    text: str
    start: int
    end: int
    weight: float


def logits(classifier: Ensemble, text: str, edited: Sequence[str], role: Role) -> list[float]:
    """The logit of the highest category of `text`, for each of its `edited` forms."""
    language = detect(text)
    label = max(classifier.scores(base_view(text).text, role, language), key=lambda s: s.value).label
    out = []
    for form in edited:
        p = next(s.value for s in classifier.scores(base_view(form).text, role, language) if s.label == label)
        out.append(float(np.log(p / (1 - p))) if 0 < p < 1 else float(np.copysign(30.0, p - 0.5)))
    return out


def explain(classifier: Ensemble, text: str, role: Role, label: str | None = None) -> list[Weight]:
    """The weights for `label`, by default the highest category. The first entry, with an empty text, is the bias."""
    view = base_view(text)
    language = detect(text)
    scores = classifier.scores(view.text, role, language)
    chosen = max(scores, key=lambda s: s.value) if label is None else next(s for s in scores if s.label == label)
    weights, bias = classifier.explain(view.text, role, language, chosen.label)
    characters = np.zeros(len(text) + 1)
    for place, weight in enumerate(weights):
        last = min(place, len(view.text) - 1)
        start, end = view.span(last, last + 1) if last >= 0 else (0, 1)
        characters[start : max(end, start + 1)] += weight / max(end - start, 1)
    out: list[Weight] = [{"text": "", "start": 0, "end": 0, "weight": bias}]
    tokens = [match.span() for match in WORD.finditer(text)] or [(0, len(text))]
    edges = [0, *(start for start, _ in tokens[1:]), len(characters)]  # the space after a word counts with the word
    for (start, end), low, high in zip(tokens, edges[:-1], edges[1:], strict=True):
        out.append({"text": text[start:end], "start": start, "end": end, "weight": float(characters[low:high].sum())})
    return out
