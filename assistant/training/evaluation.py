"""How good is a language model? How surprised it is by a text, how often it knows the next token, and how varied what it writes is.

perplexity      exp(mean surprise in nats a token): compares models of one tokenizer only
bits per byte   the same surprise, by byte: compares models of different tokenizers
accuracy        how often the likeliest token is the right one
distinct-n      different n-grams by all n-grams of the samples (Li et al. 2016, arXiv:1510.03055): low means that it repeats itself
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.errors import UsageError
from assistant.lm import sampler
from assistant.lm.engine import Engine
from assistant.lm.lstm import LSTM
from assistant.lm.tokenizer import ByteTokenizer
from assistant.loading import is_lstm, load_engine, model_file
from assistant.settings import Settings
from assistant.training.stored_lstm import load_lstm
from assistant.turn import Sampling

Progress = Callable[[str, float | None], None]
BATCH = 8
"""Windows that are read at once."""


class Judged(Protocol):
    """A model of any kind, as the judge sees it."""

    name: str
    parameters: int
    context: int
    begin: tuple[int, ...]
    tokenizer: ByteTokenizer

    def scores(self, ids: Tensor) -> Tensor:
        """(B, L) to scores (B, L, V)."""
        ...

    def write(self, ids: Sequence[int], sampling: Sampling) -> list[int]:
        """A continuation of `ids`."""
        ...


class JudgedEngine:
    """A model of the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.tokenizer = engine, engine.tokenizer
        self.name, self.context = engine.info.name, engine.context_length
        self.parameters = sum(p.numel() for p in engine.model.parameters())
        self.begin = tuple(piece.id for piece in engine.render_raw("a").pieces if piece.role is None)

    def scores(self, ids: Tensor) -> Tensor:
        """See `Judged.scores`."""
        return self.engine.model.logits(self.engine.model(ids.to(self.engine.device)))

    def write(self, ids: Sequence[int], sampling: Sampling) -> list[int]:
        """See `Judged.write`."""
        kept = list(ids)[-max(self.context // 2, 1) :]  # half of a small context is for the reply
        return [token.id for token in self.engine.generate_ids(kept, sampling, eos=self.tokenizer.eos)]


class JudgedLSTM:
    """The recurrent baseline."""

    def __init__(self, name: str, model: LSTM, tokenizer: ByteTokenizer) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.parameters = sum(p.numel() for p in model.parameters())
        self.context = model.config.context_length
        self.begin = tokenizer.begin()

    def scores(self, ids: Tensor) -> Tensor:
        """See `Judged.scores`."""
        return self.model.logits(self.model(ids))

    def write(self, ids: Sequence[int], sampling: Sampling) -> list[int]:
        """See `Judged.write`."""
        out: list[int] = []
        hidden, state = self.model.read(torch.tensor([list(ids)]), None)
        while len(out) < sampling.max_tokens:
            kept = sampler.truncate(self.model.logits(hidden[0, -1]), out, sampling)
            token = sampler.draw(kept, sampling, len(out))
            if token in self.tokenizer.eos:
                break
            out.append(token)
            hidden, state = self.model.read(torch.tensor([[token]]), state)
        return out


def load(name: str, settings: Settings, progress: Progress) -> Judged:
    """A model by name or path. Raises ModelError."""
    if is_lstm(Path(name).expanduser()):
        path = Path(name).expanduser()
        return JudgedLSTM(path.resolve().name, *load_lstm(path))
    model_file(name, progress)
    return JudgedEngine(
        load_engine(replace(settings, model=name, dtype="float32" if settings.dtype == "auto" else settings.dtype), progress)
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What was found of one model."""

    model: str
    parameters: int
    tokens: int
    perplexity: float
    bits_per_byte: float
    accuracy: float
    distinct: tuple[float, float, float]
    """distinct-1, -2 and -3 of the samples."""
    samples: tuple[str, ...]


@torch.no_grad()
def judge(
    model: Judged, text: str, prompts: Sequence[str], *, limit: int = 20_000, window: int = 0, sampling: Sampling | None = None,
    progress: Progress = lambda what, fraction: None,
) -> Figures:  # fmt: skip
    """Read the first `limit` tokens of `text` in windows of `window` (0: the model's context, at most 512), continue each of `prompts`.

    Every window begins anew; its first token is not judged, except where the model has a token to begin with.
    """
    size = min(window or model.context, model.context, 512)
    ids = model.tokenizer.encode(text)[:limit]
    if len(ids) < 2:
        raise UsageError(f"{model.name} reads only {len(ids)} tokens in this text: give a longer one")
    room = size - len(model.begin)
    rows = [ids[i : i + room] for i in range(0, len(ids), room)]
    total, right, count, judged = 0.0, 0, 0, 0
    for start in range(0, len(rows), BATCH):
        for group in _same_length(rows[start : start + BATCH]):
            batch = torch.tensor([[*model.begin, *row] for row in group])
            if batch.shape[1] < 2:
                continue
            scores = model.scores(batch)[:, max(len(model.begin), 1) - 1 : -1].cpu()
            wanted = batch[:, max(len(model.begin), 1) :]
            total += float(F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="sum"))
            right += int((scores.argmax(-1) == wanted).sum())
            count += wanted.numel()
            judged += sum(len(model.tokenizer.bytes_of(i)) for i in wanted.flatten().tolist())
        progress(f"judging {model.name}", min((start + BATCH) / len(rows), 1.0))
    chosen = sampling or Sampling(temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.0, max_tokens=32, seed=1)
    written = [model.write([*model.begin, *model.tokenizer.encode(p)], chosen) for p in prompts]
    return Figures(
        model.name, model.parameters, count, math.exp(min(total / count, 700.0)), total / math.log(2) / max(judged, 1), right / count,
        (distinct(written, 1), distinct(written, 2), distinct(written, 3)), tuple(model.tokenizer.decode(w) for w in written),
    )  # fmt: skip


def _same_length(rows: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    groups: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        groups.setdefault(len(row), []).append(row)
    return list(groups.values())


def distinct(samples: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams by all n-grams; 0 where there are none."""
    grams = [tuple(sample[i : i + n]) for sample in samples for i in range(len(sample) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def table(figures: Sequence[Figures], prompts: Sequence[str]) -> list[str]:
    """The figures side by side, and the samples below."""
    names = [f.model for f in figures]
    width = max(14, *(len(n) + 2 for n in names))

    def line(title: str, values: Sequence[str]) -> str:
        return f"{title:<16}" + "".join(f"{v:>{width}}" for v in values)

    lines = [
        line("", names),
        line("parameters", [f"{f.parameters:,}" for f in figures]),
        line("tokens judged", [f"{f.tokens:,}" for f in figures]),
    ]
    lines += [
        line("perplexity", [f"{f.perplexity:.2f}" for f in figures]),
        line("bits per byte", [f"{f.bits_per_byte:.3f}" for f in figures]),
        line("next token", [f"{f.accuracy:.1%}" for f in figures]),
    ]
    lines += [line(f"distinct-{n + 1}", [f"{f.distinct[n]:.3f}" for f in figures]) for n in range(3)]
    for i, prompt in enumerate(prompts):
        lines.append("")
        lines += [f"{f.model}: {prompt}▸{f.samples[i]}".replace("\n", "⏎") for f in figures]
    return lines


def architectures(
    recipe: Any, folder: Path, device: torch.device, say: Callable[[str], None], show: Callable[[Any], Callable[[Any], None]], *,
    rates: Sequence[float] = (), trial: int = 0,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Train a Transformer and an LSTM of as many parameters on the same batches; returns the results by architecture.

    With `rates` each of them first learns for `trial` steps with every one, and then from the beginning with the rate that was best by
    validation loss: what suits one architecture need not suit the other. Raises UsageError when nothing is held out to choose by.
    """
    out: dict[str, dict[str, Any]] = {}
    for arch in ("transformer", "lstm"):
        mine = replace(recipe, sizes=replace(recipe.sizes, arch=arch, hidden=0))
        tried: dict[float, float] = {}
        for rate in rates:
            plan = replace(recipe.plan, rate=rate, steps=trial, warmup=min(recipe.plan.warmup, trial // 4))
            loss = _trained(replace(mine, plan=plan), folder / f"{arch}-rate-{rate:g}", device, say, show)["result"]["validation_loss"]
            if loss is None:
                raise UsageError("no text is held out to choose a rate by: give a larger --validation in the recipe, or more text")
            tried[rate] = loss
            say(f"{arch}: rate {rate:g} has a validation perplexity of {math.exp(min(loss, 700.0)):,.2f} after {trial} steps")
        if tried:
            mine = replace(mine, plan=replace(recipe.plan, rate=min(tried, key=lambda rate: tried[rate])))
        card = _trained(mine, folder / arch, device, say, show)
        found, loss = card["result"], card["result"]["validation_loss"]
        out[arch] = {
            "parameters": card["model"]["parameters"], "rate": mine.plan.rate, "tokens_read": found["tokens_read"],
            "validation_perplexity": math.exp(min(loss, 700.0)) if loss is not None else None, "loss": found["loss"],
            "tokens_per_second": found["tokens_per_second"], "joules_per_million_tokens": found["joules_per_million_tokens"],
            "tried": {f"{rate:g}": math.exp(min(loss, 700.0)) for rate, loss in tried.items()},
        }  # fmt: skip
    return out


def _trained(
    recipe: Any, folder: Path, device: torch.device, say: Callable[[str], None], show: Callable[[Any], Callable[[Any], None]]
) -> dict[str, Any]:
    """The card of a run from its beginning to its end."""
    from assistant.training.runs import Run

    run = Run(recipe, folder, device=device, say=say)
    view = show(run)
    for event in run.events():
        view(event)
    return run.finish()
