"""What one explanation costs: a 62-token prompt and a 24-token reply, whole-reply deletion, and integrated gradients of one token."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from assistant.benchmarks.measure import machine, peak_megabytes, summary
from assistant.lm.engine import Engine
from assistant.lm.scoring import ReplyScorer
from assistant.settings import Settings
from explain.attributing import METHODS, attribute

PROMPT_TOKENS, REPLY_TOKENS = 62, 24
TEXT = "Please explain in a few words why the sky is blue on a clear day and red in the evening when the sun goes down. "


def bench(settings: Settings, path: Path, rounds: int = 3) -> dict[str, Any]:
    """Median seconds per method, and of one plain forward pass over the same text for comparison."""
    import torch

    engine = Engine.load(path, dtype=settings.dtype, thread_count=settings.threads)
    ids = (engine.tokenizer.encode(TEXT) * 8)[: PROMPT_TOKENS + REPLY_TOKENS]
    prompt, reply = ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]
    out: dict[str, Any] = {"machine": machine()}
    keep = torch.ones(1, PROMPT_TOKENS, dtype=torch.bool)
    forwards, seconds = [], {method: [] for method in METHODS}  # type: ignore[var-annotated]
    for _ in range(rounds):
        began = time.perf_counter()
        ReplyScorer(engine.model, prompt, reply).log_probs(keep)
        forwards.append(time.perf_counter() - began)
        for method in METHODS:
            scorer = ReplyScorer(engine.model, prompt, reply)
            began = time.perf_counter()
            attribute(
                scorer,
                [engine.tokenizer.bytes_of(i) for i in prompt],
                ["format"] + ["user"] * (PROMPT_TOKENS - 1),
                [engine.tokenizer.bytes_of(i) for i in reply],
                method=method,
                token=None if method == "ablation" else 0,
                baseline_id=engine.neutral_id,
            )
            seconds[method].append(time.perf_counter() - began)
    return out | {
        "forward_seconds": summary(forwards),
        **{f"{method}_seconds": summary(values) for method, values in seconds.items()},
        "peak_megabytes": peak_megabytes(),
    }
