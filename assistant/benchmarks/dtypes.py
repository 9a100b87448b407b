"""What a number format costs and gives: `quality` holds each against float32 on the same text, `energy` each against the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistant.benchmarks.engine import NEW_TOKENS, PROMPT_TOKENS, TEXT, energy_source, ours
from assistant.benchmarks.measure import interleaved, machine
from assistant.errors import UsageError
from assistant.lm.engine import Engine, pick_device
from assistant.settings import Settings
from safety.resources import data_path

DTYPES = ("bfloat16", "float16", "int8", "int4", "int4+bfloat16")
TEXTS = ("prompts.en.txt", "prompts.zh.txt")
"""Of data/explain, in English and in Chinese."""
Progress = Callable[[str, float | None], None]


def quality(settings: Settings, path: Path, *, tokens: int = 384, progress: Progress = lambda what, fraction: None) -> dict[str, Any]:
    """For each dtype, over the positions of `tokens` tokens of data/explain, half of them English, half Chinese:

    the mean and the 99th percentile of KL(float32 ‖ dtype) in nats, and how often both find the same token likeliest; then the same for
    each language, for a model that does not speak one is undecided there, and small differences count for more. Every position is
    computed as a reply is: one token at a time through the decoder, cache and output matrix of that dtype.
    """
    exact, streams = None, []
    result: dict[str, Any] = {"machine": machine(), "model": path.name, "tokens": 0, "dtypes": {}}
    for dtype in ("float32", *DTYPES):
        progress(f"loading {dtype}", None)
        engine = _load(settings, path, dtype)
        if engine is None:
            result["dtypes"][dtype] = "this file has no such form"
            continue
        if exact is None:
            texts = [data_path("explain", name).read_text("utf-8") for name in TEXTS]
            length = min(tokens // len(texts), engine.context_length)
            streams = [engine.tokenizer.encode(text)[:length] for text in texts]
            exact = torch.cat([engine.model.logits(engine.model(torch.tensor([ids]))[0]).log_softmax(-1) for ids in streams]).detach()
            result["tokens"], result["model"] = len(exact), engine.info.name
            continue
        progress(f"measuring {dtype}", None)
        parts = [_decoded(engine, ids) for ids in streams]
        by_language = zip(TEXTS, torch.split(exact, [len(ids) for ids in streams]), parts, strict=True)
        result["dtypes"][dtype] = compare(exact, torch.cat(parts)) | {
            name.split(".")[1]: compare(expected, got) for name, expected, got in by_language
        }
    return result


def compare(exact: Tensor, other: Tensor) -> dict[str, float]:
    """exact, other (N, V): log-probabilities → how far `other` is from `exact`."""
    divergence = (exact.exp() * (exact - other)).sum(-1)
    same = exact.argmax(-1) == other.argmax(-1)
    return {
        "mean_kl": float(divergence.mean()),
        "p99_kl": float(divergence.quantile(0.99)),
        "top1_agreement": float(same.float().mean()),
    }


@torch.inference_mode()
def _decoded(engine: Engine, ids: Sequence[int]) -> Tensor:
    engine.cache.keep_prefix([])
    return torch.stack([engine.decode(token).log_softmax(-1) for token in ids])


def energy(settings: Settings, path: Path, rounds: int = 3, *, progress: Progress = lambda what, fraction: None) -> dict[str, Any]:
    """Joules a token and tokens a second for each dtype: 128 tokens read and 128 written a round, the dtypes in turn.

    `energy_source` says whether the joules were measured, or estimated from processor time and `watts_per_core`.
    """
    engines: dict[str, Engine] = {}
    for dtype in ("float32", *DTYPES):
        progress(f"loading {dtype}", None)
        if (engine := _load(settings, path, dtype)) is not None:
            engines[dtype] = engine
    first = engines["float32"]
    ids = (first.tokenizer.encode(TEXT) * PROMPT_TOKENS)[:PROMPT_TOKENS]
    progress("measuring", None)
    figures = interleaved({name: partial(ours, engine, ids) for name, engine in engines.items()}, rounds)
    return {
        "machine": machine(), "model": first.info.name, "new_tokens": NEW_TOKENS, "energy_source": energy_source(first, ids),
        "dtypes": figures,
    }  # fmt: skip


def _load(settings: Settings, path: Path, dtype: str) -> Engine | None:
    """None for a dtype that this file or device has not."""
    pick_device(settings.device)  # one that is not there at all is the person's mistake
    try:
        return Engine.load(path, device=settings.device, dtype=dtype, thread_count=settings.threads, watts_per_core=settings.watts_per_core)
    except UsageError:
        return None
