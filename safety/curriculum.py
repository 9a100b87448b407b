"""What the encoder is shown, in which order: a fixed number of rows of every source in each round, so that no source
drowns the others; the same rounds for the same seed.

The last rounds add the project's own contrast pairs several times over: the twins are what decides at the end.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safety.labels import Lesson, lesson
from safety.normalize import base_view

ROUND = {
    "aisafetylab_zh": 568, "aisafetylab_zh_responses": 323, "benign_banking77": 600, "benign_bbh": 200, "benign_belle": 173,
    "benign_chatterbot": 700, "benign_clinc150": 1500, "benign_crosswoz": 700, "benign_gpteacher_responses": 1000,
    "benign_gpteacher_seed": 1600, "benign_gsm8k": 250, "benign_kdconv": 800, "benign_plexpt_zh": 3000, "benign_roleplay_prompts": 600,
    "bipia_indirect": 250, "cold_train": 3600, "cvalues_prompts": 664, "cyberseceval_frr": 250, "davidson": 600, "diasafety": 800,
    "forbidden_questions": 351, "gptfuzz_prompts": 127, "gptfuzz_responses": 1100, "hatemoji_build": 700, "hatexplain_train_partial": 1200,
    "jade": 1200, "jade_responses": 600, "jailbreak_llms": 445, "pyrit_jailbreak_templates": 150, "red_instruct": 1700, "sap200": 200,
    "toxic_spans_train": 500, "vicomtech_stormfront": 500, "frames": 5000, "requests": 0, "written": 0, "prose": 0,
}  # fmt: skip
"""Rows of each source in a round; a source with fewer is repeated, one with more takes turns."""

MEANING = ROUND | {
    "aisafetylab_zh_responses": 642, "benign_banking77": 300, "benign_bbh": 150, "benign_chatterbot": 400, "benign_clinc150": 700,
    "benign_crosswoz": 300, "benign_gpteacher_responses": 1200, "benign_gpteacher_seed": 1600, "benign_gsm8k": 150, "benign_kdconv": 400,
    "benign_plexpt_zh": 2500, "benign_roleplay_prompts": 900, "cold_train": 3600, "cyberseceval_frr": 377, "davidson": 900,
    "diasafety": 2600, "gptfuzz_responses": 1900, "hatemoji_build": 900, "hatexplain_train_partial": 3000, "jade_responses": 990,
    "pyrit_jailbreak_templates": 247, "sap200": 250, "toxic_spans_train": 900, "vicomtech_stormfront": 800, "frames": 6000,
}  # fmt: skip
"""The later rounds: fewer everyday questions, which it knows by then, more posts and more replies."""
LAST = {name: round(rows * 0.5) for name, rows in MEANING.items()} | {"requests": 3000}
WIDE = MEANING | {"requests": 2500}
"""Everything but the written rows once more, with fewer frames: turns of phrase have been learnt."""

WRITTEN = {name: round(rows * 0.35) for name, rows in WIDE.items()} | {"requests": 1500, "written": 10000}
"""The rows that were written one by one, several times over, among a little of everything."""
CLOSING = {name: round(rows * 0.3) for name, rows in WIDE.items()} | {
    "cold_train": 2500, "davidson": 600, "diasafety": 1500, "frames": 1200, "gptfuzz_responses": 1000, "hatemoji_build": 700,
    "hatexplain_train_partial": 2500, "jade_responses": 600, "requests": 1000, "toxic_spans_train": 600, "written": 7000,
}  # fmt: skip
"""Posts and replies again, which the round before had let fade."""
BROAD = WIDE | {
    "aisafetylab_zh": 1100, "benign_banking77": 500, "benign_belle": 330, "benign_chatterbot": 1000, "benign_clinc150": 1500,
    "benign_gpteacher_responses": 3000, "benign_gpteacher_seed": 4000, "benign_gsm8k": 300, "benign_kdconv": 1000, "benign_plexpt_zh": 4000,
    "benign_roleplay_prompts": 1267, "bipia_indirect": 670, "cold_train": 9000, "cyberseceval_frr": 700, "davidson": 3000,
    "diasafety": 4000, "forbidden_questions": 390, "frames": 5000, "gptfuzz_prompts": 240, "gptfuzz_responses": 3600,
    "hatemoji_build": 2500, "hatexplain_train_partial": 6000, "jade": 1969, "jade_responses": 940, "jailbreak_llms": 840,
    "pyrit_jailbreak_templates": 235, "red_instruct": 2844, "requests": 2900, "sap200": 400, "toxic_spans_train": 1500,
    "vicomtech_stormfront": 2500, "written": 7000,
}  # fmt: skip
"""Far more of every source: what the later, long rounds are made of."""
LATE = BROAD | {"davidson": 3500, "frames": 3500, "hatexplain_train_partial": 7000, "written": 12000}
"""The same, and the rows that were written one by one several times over."""
LONG = LATE | {"prose": 3500}
"""And long harmless prose."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round of training: the rows of each source, how often every contrast pair is shown, the rate (a share of the
    highest one) at its beginning and at its end, and after how many steps it stops."""

    mix: Mapping[str, int]
    size: float = 1.0
    contrast: int = 0
    begin: float = 1.0
    end: float = 1.0
    steps: int | None = None


PLAN = (
    Round(ROUND, steps=598),
    Round(ROUND, size=1.3, contrast=5, end=0.02, steps=624),
    Round(MEANING, contrast=2, begin=0.35, end=0.35, steps=87),
    Round(LAST, contrast=3, begin=0.35, end=0.01, steps=161),
    Round(LAST, size=0.16, contrast=1, begin=0.23, end=0.01, steps=78),
    Round(WIDE, contrast=2, begin=0.6, end=0.6, steps=292),
    Round(WRITTEN, contrast=3, begin=0.6, end=0.01, steps=546),
    Round(CLOSING, contrast=2, begin=0.5, end=0.01, steps=543),
    Round(BROAD, contrast=4, begin=0.7, end=0.7, steps=1671),
    Round(BROAD, contrast=4, begin=0.7, end=0.01, steps=1671),
    Round(LATE, contrast=3, begin=0.6, end=0.4, steps=1700),
    Round(LONG, contrast=3, begin=0.4, end=0.2, steps=1800),
    Round(LONG, contrast=3, begin=0.2, end=0.005, steps=1800),
)
"""What the shipped weights were taught with."""
EVERYTHING = Round(WIDE | {"written": 2500}, contrast=1)
"""What the gate is taught on: as a guard meets it, not as a lesson insists on it."""
_POST = 4.0  # labels.py trusts posts little, for the sake of the n-grams; a model that reads meaning may trust them more
_JOINED = 0.08
_PIECE = 700  # characters; more than the tokens that are read
_WITH_PROMPT = 0.6  # of the replies whose prompt is known, so many are shown with it


@dataclass(frozen=True, slots=True)
class Example:
    """A piece of text and what it teaches; `role` is `post` where both heads may learn from it."""

    text: str
    role: str
    lesson: Lesson
    unsafe: bool
    weight: float
    prompt: str = ""
    """What the text answers, when it is read together with that."""


class Curriculum:
    """All rows, by source; `round(n)` gives the examples of one round in the order of training."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], contrast: Sequence[Mapping[str, Any]], seed: int) -> None:
        self._seed, self._contrast = seed, contrast
        self._sources: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["set"] in ROUND and lesson(row, with_prompt=bool(row.get("context"))) is not None:
                self._sources.setdefault(row["set"], []).append(row)
        for name, source in sorted(self._sources.items()):
            random.Random(f"{seed} {name}").shuffle(source)
        self._plain = [row["text"] for row in self._sources.get("benign_clinc150", []) + self._sources.get("benign_plexpt_zh", [])]

    def round(self, number: int, plan: Round) -> list[Example]:
        """The examples of round `number`, from 0."""
        rng = random.Random(f"{self._seed} round {number} {plan.contrast > 0}")
        chosen: list[Mapping[str, Any]] = []
        for name, source in sorted(self._sources.items()):
            start = number * plan.mix[name]
            chosen += [source[(start + i) % len(source)] for i in range(round(plan.mix[name] * plan.size))]
        made = [self._example(row, rng) for row in chosen]
        made += [self._example(row, rng, joined=0.0) for row in self._contrast for _ in range(plan.contrast)]
        rng.shuffle(made)
        return made

    def _example(self, row: Mapping[str, Any], rng: random.Random, joined: float = _JOINED) -> Example:
        alone = lesson(row)
        shown = bool(row.get("context")) and row["role"] == "response" and (alone is None or rng.random() < _WITH_PROMPT)
        prompt = str(row["context"]) if shown else ""
        taught = lesson(row, with_prompt=True) if shown else alone
        assert taught is not None
        text = base_view(row["text"]).text
        weight = taught.weight
        if len(text) > _PIECE:
            text, trust = _piece(text, row, rng)
            weight *= trust
        if len(text) < 300 and self._plain and not prompt and rng.random() < joined:  # something harmless before or after changes nothing
            other = base_view(rng.choice(self._plain)).text
            text = rng.choice([f"{other} {text}", f"{text} {other}", f"{other}\n\n{text}"])
        if row["role"] == "post":
            weight = min(1.0, weight * _POST) if row["label"] == "unsafe" else 0.6
        return Example(text, row["role"], taught, row["label"] == "unsafe", weight, base_view(prompt).text)


def _piece(text: str, row: Mapping[str, Any], rng: random.Random) -> tuple[str, float]:
    """A piece of a long text, and how far the row's label may be trusted for it."""
    if row["set"] == "bipia_indirect" and row["label"] == "unsafe":
        return (text[:_PIECE], 1.0) if row["category"].endswith("start") else (text[-500:], 1.0)
    if row["label"] == "safe":
        start = rng.randrange(0, len(text) - 200)
        return text[start : start + _PIECE], 1.0
    place = rng.random()
    if place < 0.5:
        return text[:_PIECE], 1.0
    if place < 0.75:
        return text[-450:], 0.7
    start = rng.randrange(0, len(text) - 200)
    return text[start : start + _PIECE], 0.5


def contrast_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The train half of the contrast pairs."""
    return [{**row, "set": "contrast", "kind": "borderline_safe"} for row in rows if row.get("split", "train") == "train"]


def batches(lengths: Sequence[int], budget: int, rng: random.Random) -> Iterator[list[int]]:
    """Indices in batches of at most `budget` padded tokens, alike in length, in random order."""
    pool = 2000
    made: list[list[int]] = []
    for start in range(0, len(lengths), pool):
        order = sorted(range(start, min(start + pool, len(lengths))), key=lambda i: (lengths[i], i))
        batch: list[int] = []
        for index in order:
            if batch and (len(batch) + 1) * lengths[index] > budget:
                made.append(batch)
                batch = []
            batch.append(index)
        made += [batch] if batch else []
    rng.shuffle(made)
    yield from made
