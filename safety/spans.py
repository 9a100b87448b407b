"""Which words of a text would people mark as toxic? The guard's encoder, changed once more by low ranks, reads every token; marked posts
taught it.

    h = the encoder's last states, every map W + B·A of the guard changed to W + B·A + D·C      (Hu et al. 2021, low-rank adaptation)
    logit = w · [h, how often people marked the token's word, how often it was seen, 1] + b

Weights of the classifier (see `explanation`) say what moved its score; this says which words carry the offence. It was taught by spans
(supervised rationales; SemEval-2021 task 5: Pavlopoulos et al. 2021) and takes no part in any verdict. A token's logit is given to its
characters; a word takes the greatest of its tokens.
"""

from __future__ import annotations

import hashlib
import math
import random
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from safety.base_weights import SHA256, BaseWeights
from safety.encoder import LAYERS, Trunk, encode, pad, tokenizer
from safety.ensemble import WORD
from safety.explanation import Weight
from safety.finetune import reduced
from safety.normalize import View, base_view
from safety.reader import TOKENS, read_weights

RANK, ROUNDS, BATCH, RATE, HEAD_RATE, DROPPED = 8, 3, 32, 1e-3, 3e-3, 0.1
WARM = 50
"""Steps over which the rates rise."""
FOLDS = 5
"""While it learns, a text's words are counted in the other folds only: else it would believe the counts too much."""
RARE = 3
"""Words that are seen less often are forgotten."""
Counts = dict[str, tuple[int, int]]
"""Word → how often people marked it, how often it was there."""
HELD = 10
"""Every so many-th text is kept aside, to choose the threshold on."""
FORMAT = "pellucid-spans-2"
Say = Callable[[str], None]
Places = list[tuple[int, int]]


class SpanError(Exception):
    """The weights are missing or are not what they should be."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that are read at once."""

    ids: list[int]
    places: Places
    """The characters that each stands for."""
    known: Tensor
    """(tokens, 3): see `counted`."""
    label: Tensor
    """(tokens,): 1 where people marked most of it."""


class SpanReader:
    """Texts to the logit of every word. Immutable once loaded."""

    def __init__(self, base: Path, weights: Path, changes: Mapping[str, Tensor] | None = None) -> None:
        """`base` and `weights`: the files of the guard's encoder, which are read in float32. Without `changes` it begins anew: A random,
        B zero. Raises BaseWeightsError."""
        arrays, header = read_weights(weights)
        guards = {name[2:]: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items() if name.startswith("p/")}
        trunk_file = BaseWeights(base, header.get("base", SHA256))
        self._trunk, self._split = Trunk(trunk_file, int(header.get("layers", LAYERS))), tokenizer(trunk_file)
        self._kept = {name: guards[name] for name in self._trunk.replaced}
        for name in self._trunk.weights:
            self._trunk.weights[name] = self._trunk.weights[name] + guards[f"{name}.B"] @ guards[f"{name}.A"]
        self.encoder = hashlib.sha256(weights.read_bytes()).hexdigest()
        """Of the weights that it was taught on: with others it would mark at random."""
        self.changes = dict(changes or self._initial())
        """`map.A`, `map.B` and `head.w` (width + 3,), `head.b` (1,)."""
        self.counts: Counts = {}
        self.threshold = 0.0
        """Logit from which a word counts as marked."""

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"head.w": (self._trunk.shape.width + 3,), "head.b": (1,)}
        for name, weight in self._trunk.weights.items():
            shapes |= {f"{name}.A": (RANK, weight.shape[1]), f"{name}.B": (weight.shape[0], RANK)}
        return shapes

    def _initial(self) -> dict[str, Tensor]:
        made = {name: torch.zeros(shape) for name, shape in self._shapes().items()}
        for name, value in made.items():
            if name.endswith(".A"):
                value.normal_(std=value.shape[1] ** -0.5)
        made["head.b"].fill_(-2.0)
        return made

    def save(self, path: Path) -> None:
        """Sixteen bits a number, no pickle."""
        arrays = {f"p/{name}": value.detach().numpy().astype(np.float16) for name, value in self.changes.items()}
        words = np.frombuffer("\n".join(self.counts).encode(), np.uint8)
        counts = np.array(list(self.counts.values()), np.uint16).reshape(-1, 2)
        facts = {"format": np.array(FORMAT), "encoder": np.array(self.encoder), "threshold": np.array(self.threshold)}
        np.savez_compressed(path, words=words, counts=counts, **facts, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, base: Path, weights: Path) -> SpanReader:
        """Raises SpanError for a file that is missing, damaged, of another format or for another encoder; BaseWeightsError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if str(arrays.pop("format")) != FORMAT:
                raise SpanError(f"{path}: not a file of span weights")
            threshold, encoder = float(arrays.pop("threshold")), str(arrays.pop("encoder"))
            words, counts = arrays.pop("words").tobytes().decode().split("\n"), arrays.pop("counts").tolist()
            made = cls(base, weights, {name[2:]: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()})
            if {name: tuple(value.shape) for name, value in made.changes.items()} != made._shapes():
                raise ValueError("they are of another shape")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SpanError(f"{path}: the span weights cannot be read ({error}); install Pellucid again") from error
        if made.encoder != encoder:
            raise SpanError(f"{path}: the span weights were taught on another encoder; run `pellucid safety spans` for this one")
        made.threshold = threshold
        made.counts = {word: (marked, seen) for word, (marked, seen) in zip(words, counts, strict=False)}
        return made

    def windows(self, text: str, counts: Counts, gold: frozenset[int] = frozenset()) -> list[Window]:
        """The text, one window after another."""
        view = base_view(text)
        cut: Any = self._split.encode(view.text, add_special_tokens=False)
        found = []
        for start in range(0, len(cut.ids), TOKENS - 2):
            spans = places(view, cut.offsets[start : start + TOKENS - 2])
            label = [float(b > a and 2 * len(gold.intersection(range(a, b))) > b - a) for a, b in spans]
            found.append(Window(list(cut.ids[start : start + TOKENS - 2]), spans, counted(text, spans, counts), torch.tensor(label)))
        return found

    def logits(self, windows: Sequence[Window], dropped: float = 0.0) -> Tensor:
        """(windows, longest); `dropped` is the share of inputs that are left out while it learns."""
        ids, mask = pad([[self._trunk.bos, *w.ids, self._trunk.eos] for w in windows], self._trunk.pad)
        states = encode(self._trunk, {**self._kept, **self.changes}, self._trunk.embed(ids), mask, dropped)[:, 1:-1]
        known = torch.nn.utils.rnn.pad_sequence([w.known for w in windows], batch_first=True)
        x = torch.cat([F.dropout(states, dropped), known], -1)
        return x @ self.changes["head.w"] + self.changes["head.b"]

    @torch.inference_mode()
    def words(self, text: str) -> list[Weight]:
        """Every word (Chinese: character) and mark of `text` and its logit of being marked."""
        characters = np.full(len(text), -np.inf)
        for window in self.windows(text, self.counts):
            for (start, end), logit in zip(window.places, self.logits([window])[0].tolist(), strict=True):
                characters[start:end] = np.maximum(characters[start:end], logit)
        out: list[Weight] = []
        for match in WORD.finditer(text):
            start, end = match.span()
            most = float(characters[start:end].max())
            out.append({"text": match.group(), "start": start, "end": end, "weight": most if np.isfinite(most) else -30.0})
        return out


def places(view: View, offsets: Sequence[tuple[int, int]]) -> Places:
    """The characters of the text as it was written that each token stands for, without the white space before it."""
    found = []
    for start, end in offsets:
        while start < end and view.text[start].isspace():
            start += 1
        found.append(view.span(start, end) if start < end else (0, 0))
    return found


def counted(text: str, spans: Sequence[tuple[int, int]], counts: Counts) -> Tensor:
    """(tokens, 3): the log-odds that the word in which a token begins is marked, the logarithm of how often it was seen, and 1; zeros for
    tokens outside of words. The odds are smoothed towards those of all words."""
    at: dict[int, tuple[int, int]] = {}
    for match in WORD.finditer(text):
        at |= dict.fromkeys(range(*match.span()), counts.get(match.group().lower(), (0, 0)))
    out = torch.zeros(len(spans), 3)
    for token, (start, end) in enumerate(spans):
        if start < end and start in at:
            marked, seen = at[start]
            out[token] = torch.tensor([0.7 * math.log((marked + 0.16) / (seen - marked + 1.84)), 0.5 * math.log1p(seen), 1.0])
    return out


def count(texts: Sequence[str], marked: Sequence[frozenset[int]]) -> Counts:
    """How often each word was marked and seen. A word is marked when more than half of it is."""
    out: Counts = {}
    for text, gold in zip(texts, marked, strict=True):
        for match in WORD.finditer(text):
            word, (start, end) = match.group().lower(), match.span()
            before = out.get(word, (0, 0))
            out[word] = before[0] + (2 * len(gold.intersection(range(start, end))) > end - start), before[1] + 1
    return {word: pair for word, pair in out.items() if pair[1] >= RARE}


def train(
    base: Path, weights: Path, texts: Sequence[str], marked: Sequence[frozenset[int]], seed: int = 0, say: Say = lambda line: None
) -> SpanReader:
    """Teach the encoder of `base` and `weights` on texts and the characters that people marked in each. The threshold is the one with the
    best character F1 on every `HELD`-th text, from which nothing else is learned. One seed and one number of threads, one result. Raises
    ValueError without marked texts."""
    if len(texts) < 2 * HELD or not any(marked):
        raise ValueError(f"at least {2 * HELD} texts with marked characters are needed")
    torch.manual_seed(seed)
    reader = SpanReader(base, weights)
    taught = [i for i in range(len(texts)) if i % HELD]
    folds = [[i for i in taught if i % FOLDS != fold] for fold in range(FOLDS)]
    apart = [count([texts[i] for i in some], [marked[i] for i in some]) for some in folds]
    _fit(reader, [w for i in taught for w in reader.windows(texts[i], apart[i % FOLDS], marked[i])], random.Random(seed), say)
    reader.changes = {name: value.detach().half().float() for name, value in reader.changes.items()}
    reader.counts = count([texts[i] for i in taught], [marked[i] for i in taught])
    aside = [i for i in range(len(texts)) if i % HELD == 0]
    words = [reader.words(texts[i]) for i in aside]
    choices = [x / 10 for x in range(-20, 21)]
    scores = [sum(f1(marked[i], chosen(w, c)) for i, w in zip(aside, words, strict=True)) / len(aside) for c in choices]
    reader.threshold = max(zip(scores, choices, strict=True), key=lambda pair: (pair[0], -abs(pair[1])))[1]
    say(f"threshold {reader.threshold}: character F1 {max(scores):.3f} on {len(aside)} texts kept aside")
    return reader


def _fit(reader: SpanReader, windows: Sequence[Window], rng: random.Random, say: Say) -> None:
    ordered = sorted(windows, key=lambda w: len(w.ids))
    batches = [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]
    for value in reader.changes.values():
        value.requires_grad_(True)
    low = [value for name, value in reader.changes.items() if not name.startswith("head")]
    head = [value for name, value in reader.changes.items() if name.startswith("head")]
    optimiser = torch.optim.AdamW([{"params": low, "top": RATE}, {"params": head, "top": HEAD_RATE}], betas=(0.9, 0.98), weight_decay=0.01)
    step, steps = 0, ROUNDS * len(batches)
    for number in range(ROUNDS):
        rng.shuffle(batches)
        total = 0.0
        for place, batch in enumerate(batches, 1):
            for group in optimiser.param_groups:
                group["lr"] = group["top"] * min(1.0, (step + 1) / WARM) * (1 - step / steps)
            y = torch.nn.utils.rnn.pad_sequence([w.label for w in batch], batch_first=True, padding_value=-1.0)
            seen = y >= 0
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced()):
                logits = reader.logits(batch, DROPPED)
            loss = F.binary_cross_entropy_with_logits(logits.float()[seen], y[seen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(low, 1.0)
            optimiser.step()
            step, total = step + 1, total + float(loss.detach())
            if place % 50 == 0 or place == len(batches):
                say(f"round {number + 1} of {ROUNDS}, {place} of {len(batches)}: loss {total / place:.4f}")


def chosen(words: Sequence[Weight], threshold: float) -> frozenset[int]:
    """The characters of the words that reach the threshold, and the single one between two neighbours of them."""
    out: set[int] = set()
    last = None
    for word in words:
        if word["weight"] < threshold:
            last = None
            continue
        out.update(range(word["start"] if last is None or word["start"] - last > 1 else last, word["end"]))
        last = word["end"]
    return frozenset(out)


def f1(gold: frozenset[int], found: frozenset[int]) -> float:
    """Of characters; two empty sets agree (1), one empty set does not (0), as in SemEval-2021 task 5."""
    if not gold or not found:
        return float(gold == found)
    return 2 * len(gold & found) / (len(gold) + len(found))
