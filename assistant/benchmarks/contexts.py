"""What a longer context costs: reading it, writing on from its end, and keeping it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assistant import paths
from assistant.benchmarks.engine import TEXT
from assistant.benchmarks.measure import machine
from assistant.errors import UsageError
from assistant.lm.engine import Engine
from assistant.settings import Settings
from assistant.turn import Sampling

LENGTHS = (1024, 4096, 8000)
NEW_TOKENS = 32
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=NEW_TOKENS)
Progress = Callable[[str, float | None], None]


def bench(
    settings: Settings, path: Path, lengths: Sequence[int] = LENGTHS, *, progress: Progress = lambda what, fraction: None
) -> dict[str, Any]:
    """For each length: seconds to read a prompt of so many tokens, tokens a second while the next 32 are written, megabytes of cache.

    `read_growth` and `token_growth` hold the cost of a token against the one at the first length: 1 where the context costs nothing.
    Raises UsageError for a length beyond the model's own context.
    """
    engine = Engine.load(
        path, device=settings.device, dtype=settings.dtype, thread_count=settings.threads, context_length=max(lengths) + NEW_TOKENS,
        packed_folder=paths.cache_dir() / "packed",
    )  # fmt: skip
    if engine.context_length < max(lengths) + NEW_TOKENS:
        raise UsageError(f"{engine.info.name} has a context of {engine.context_length} tokens: measure at most that less {NEW_TOKENS}")
    words = engine.tokenizer.encode(TEXT)
    rows: dict[str, dict[str, float]] = {}
    first: tuple[float, float] | None = None
    for length in sorted(lengths):
        progress(f"reading {length} tokens", None)
        engine.cache.keep_prefix([])
        generation = engine.generate_ids((words * (length // len(words) + 1))[:length], GREEDY, eos=frozenset())
        for _ in generation:
            pass
        usage = generation.usage
        read, token = usage.prefill_seconds / length, usage.decode_seconds / (usage.reply_tokens - 1)
        first = first or (read, token)
        rows[str(length)] = {
            "prefill_seconds": usage.prefill_seconds, "prefill_tokens_per_second": 1 / read, "decode_tokens_per_second": 1 / token,
            "read_growth": read / first[0], "token_growth": token / first[1],
            "cache_megabytes": sum(kept.nbytes for kept in engine.cache.store) / engine.cache.size * engine.cache.length / 1e6,
        }  # fmt: skip
    return {"machine": machine(), "model": engine.info.name, "dtype": engine.info.dtype, "lengths": rows}
