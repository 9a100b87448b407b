"""Which words of a text would people mark as toxic? A small head on the encoder's token states, taught by marked posts.

    x = [standardised [word vector, state after two thirds of the layers, last state], how often people marked that word]
    h = gelu(A x + a),   g = gelu(conv₃(h) + c),   logit = o · [h, g] + b, the mean of three such networks

Weights of the classifier (see `explanation`) say what moved its score; this says which words carry the offence. It was taught by spans
(supervised rationales; SemEval-2021 task 5: Pavlopoulos et al. 2021) and takes no part in any verdict. A token's logit is given to its
characters; a word takes the greatest of its tokens.
"""

from __future__ import annotations

import math
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safety.ensemble import WORD
from safety.explanation import Weight
from safety.normalize import View, base_view

if TYPE_CHECKING:
    from safety.reader import Reader

MEMBERS, HIDDEN, ROUNDS, BATCH, RATE, DROPPED = 3, 32, 5, 32, 1e-3, 0.3
FOLDS = 5
"""While the head learns, a text's words are counted in the other folds only: else it would believe the counts too much."""
RARE = 3
"""Words that are seen less often are forgotten."""
Counts = dict[str, tuple[int, int]]
"""Word → how often people marked it, how often it was there."""
Window = tuple[Tensor, Tensor, Tensor]
"""States, what was counted and labels of the tokens of one window."""
HELD = 10
"""Every so many-th text is kept aside, to choose the threshold on."""
FORMAT = "pellucid-spans-1"
Say = Callable[[str], None]


class SpanError(Exception):
    """The weights are missing or are not what they should be."""


class _Member(nn.Module):
    """One of the networks."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.around = nn.Conv1d(hidden, hidden, 3, padding=1)
        self.last = nn.Linear(2 * hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, 0.1, self.training)
        h = F.dropout(F.gelu(self.first(x)), DROPPED, self.training)
        g = F.dropout(F.gelu(self.around(h.transpose(1, 2)).transpose(1, 2)), DROPPED, self.training)
        found: Tensor = self.last(torch.cat([h, g], -1))[..., 0]
        return found


class SpanHead(nn.Module):
    """Token states to logits. Immutable once loaded."""

    mean: Tensor
    spread: Tensor

    def __init__(self, states: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("spread", torch.ones(states))
        self.counts: Counts = {}
        self.members = nn.ModuleList(_Member(states + 3, hidden) for _ in range(MEMBERS))
        self.threshold = 0.0
        """Logit from which a word counts as marked."""

    def forward(self, x: Tensor) -> Tensor:
        """(texts, tokens, inputs) → (texts, tokens); see `inputs` for x."""
        return torch.stack([member(x) for member in self.members]).mean(0)

    def inputs(self, states: Tensor, known: Tensor) -> Tensor:
        """(tokens, states), (tokens, 3) → (tokens, states + 3): states in units of their spread over the training texts, and `counted`."""
        return torch.cat([(states.float() - self.mean) / self.spread, known], 1)

    def save(self, path: Path) -> None:
        """Sixteen bits a number, no pickle."""
        arrays = {name: value.numpy().astype(np.float16) for name, value in self.state_dict().items()}
        words = np.frombuffer("\n".join(self.counts).encode(), np.uint8)
        counts = np.array(list(self.counts.values()), np.uint16).reshape(-1, 2)
        facts = {"format": np.array(FORMAT), "threshold": np.array(self.threshold), "words": words, "counts": counts}
        np.savez_compressed(path, **facts, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> SpanHead:
        """Raises SpanError for a file that is missing, damaged or of another format."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if str(arrays.pop("format")) != FORMAT:
                raise SpanError(f"{path}: not a file of span weights")
            threshold = float(arrays.pop("threshold"))
            words, counts = arrays.pop("words").tobytes().decode().split("\n"), arrays.pop("counts").tolist()
            head = cls(arrays["mean"].shape[0], arrays["members.0.first.weight"].shape[0])
            head.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()})
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            raise SpanError(f"{path}: the span weights cannot be read ({error}); install Pellucid again") from error
        head.threshold = threshold
        head.counts = {word: (marked, seen) for word, (marked, seen) in zip(words, counts, strict=False)}
        return head.eval()

    @torch.inference_mode()
    def words(self, reader: Reader, text: str) -> list[Weight]:
        """Every word (Chinese: character) and mark of `text` and its logit of being marked."""
        view = base_view(text)
        characters = np.full(len(text), -np.inf)
        for states, offsets in reader.states([view.text])[0]:
            spans = places(view, offsets)
            logits = self(self.inputs(states, counted(text, spans, self.counts))[None])[0].tolist()
            for (start, end), logit in zip(spans, logits, strict=True):
                characters[start:end] = np.maximum(characters[start:end], logit)
        out: list[Weight] = []
        for match in WORD.finditer(text):
            start, end = match.span()
            most = float(characters[start:end].max())
            out.append({"text": match.group(), "start": start, "end": end, "weight": most if np.isfinite(most) else -30.0})
        return out


def places(view: View, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
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


def train(reader: Reader, texts: Sequence[str], marked: Sequence[frozenset[int]], seed: int = 0, say: Say = lambda line: None) -> SpanHead:
    """Fit the head on texts and the characters that people marked in each. The threshold is the one with the best character F1 on
    every `HELD`-th text, from which nothing else is learned. One seed, one result. Raises ValueError without marked texts."""
    if len(texts) < 2 * HELD or not any(marked):
        raise ValueError(f"at least {2 * HELD} texts with marked characters are needed")
    taught = [i for i in range(len(texts)) if i % HELD]
    folds = [[i for i in taught if i % FOLDS != fold] for fold in range(FOLDS)]
    apart = [count([texts[i] for i in some], [marked[i] for i in some]) for some in folds]
    windows: list[Window] = []
    for number, (text, gold) in enumerate(zip(texts, marked, strict=True)):
        view = base_view(text)
        for states, offsets in reader.states([view.text])[0] if number % HELD else ():
            spans = places(view, offsets)
            label = [float(end > start and 2 * len(gold.intersection(range(start, end))) > end - start) for start, end in spans]
            windows.append((states.half(), counted(text, spans, apart[number % FOLDS]), torch.tensor(label)))
        if number % 1000 == 999:
            say(f"{number + 1} of {len(texts)} texts read")
    torch.manual_seed(seed)
    head = SpanHead(windows[0][0].shape[1])
    sample = torch.cat([states for states, _, _ in windows[::6]]).float()
    head.mean, head.spread = sample.mean(0), sample.std(0) + 1e-3
    head.counts = count([texts[i] for i in taught], [marked[i] for i in taught])
    for number, member in enumerate(head.members):
        say(f"network {number + 1} of {MEMBERS}")
        _fit(head, member, windows, random.Random(f"{seed} {number}"), say)
    aside = [i for i in range(len(texts)) if i % HELD == 0]
    words = [head.words(reader, texts[i]) for i in aside]
    choices = [x / 10 for x in range(-20, 21)]
    scores = [sum(f1(marked[i], chosen(w, c)) for i, w in zip(aside, words, strict=True)) / len(aside) for c in choices]
    head.threshold = max(zip(scores, choices, strict=True), key=lambda pair: (pair[0], -abs(pair[1])))[1]
    say(f"threshold {head.threshold}: character F1 {max(scores):.3f} on {len(aside)} texts kept aside")
    return head.eval()


def _fit(head: SpanHead, member: nn.Module, windows: Sequence[Window], rng: random.Random, say: Say) -> None:
    ordered = sorted((w for w in windows if len(w[2])), key=lambda w: len(w[2]))
    batches = [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]
    optimiser = torch.optim.AdamW(member.parameters(), lr=RATE, weight_decay=0.05)
    step, steps = 0, ROUNDS * len(batches)
    member.train()
    for number in range(ROUNDS):
        rng.shuffle(batches)
        total = 0.0
        for batch in batches:
            for group in optimiser.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            x = nn.utils.rnn.pad_sequence([head.inputs(states, known) for states, known, _ in batch], batch_first=True)
            y = nn.utils.rnn.pad_sequence([label for _, _, label in batch], batch_first=True, padding_value=-1.0)
            seen = y >= 0
            loss = F.binary_cross_entropy_with_logits(member(x)[seen], y[seen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step, total = step + 1, total + float(loss.detach())
        say(f"round {number + 1} of {ROUNDS}: loss {total / len(batches):.4f}")
    member.eval()


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
