"""Training speed, memory and energy, in turn with `transformers` training the same model (same sizes, batches, optimiser and clipping)."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assistant.benchmarks.measure import interleaved, machine, peak_megabytes, seconds
from assistant.errors import UsageError
from assistant.lm.batches import Batch, Document, Stream
from assistant.lm.energy import Meter
from assistant.lm.train import Plan, Trainer, initialise
from assistant.training.recipe import Sizes
from assistant.training.runs import build

VOCABULARY = 4608
SIZES = Sizes()
PLAN = Plan(batch=24, context=64, rate=1e-3, warmup=1, steps=100_000)
Step = Callable[[Batch], object]


def bench(sizes: Sizes, plan: Plan, rounds: int, steps: int, *, peer: bool, compiled: bool, watts: float) -> dict[str, Any]:
    """Median tokens a second over interleaved rounds of `steps` steps on random tokens; peak memory in processes of their own."""
    if peer and importlib.util.find_spec("transformers") is None:
        raise UsageError("the peer transformers is not installed: pip install transformers")
    data = Stream([Document(np.random.default_rng(0).integers(0, VOCABULARY, 200_000).astype(np.int32))], plan.context, plan.batch)
    names = ["pellucid", *(["transformers"] if peer else [])]
    actions = {name: _timed(_stepper(name, sizes, plan, compiled), data, steps) for name in names}
    for action in actions.values():
        action()  # the first round warms caches up
    figures = interleaved(actions, rounds)
    meter = Meter(watts)
    meter.start()
    actions["pellucid"]()
    meter.stop()
    joules, source = meter.read()
    result: dict[str, Any] = {
        "machine": machine(), "parameters": sum(p.numel() for p in build(sizes, VOCABULARY, plan.context).parameters()),
        "figures": figures, "peak_megabytes": {name: _alone(name, sizes, plan) for name in names},
        "joules_per_million_tokens": (joules or 0.0) / (steps * plan.batch * plan.context) * 1e6, "energy_source": source,
    }  # fmt: skip
    if peer:
        for figure in ("tokens_per_second", "tokens_per_processor_second"):
            ours, theirs = (figures[name][figure]["median"] for name in names)
            result[f"ratio_of_{figure}"] = ours / theirs
    return result


def _timed(step: Step, data: Stream, steps: int) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        batches = [data.batch(i) for i in range(steps)]
        before = time.process_time()
        each = [seconds(lambda batch=batch: step(batch)) for batch in batches]  # type: ignore[misc]
        spent, tokens = time.process_time() - before, batches[0].ids.numel()
        return {"tokens_per_second": tokens / statistics.median(each), "tokens_per_processor_second": tokens * steps / spent}

    return run


def _stepper(name: str, sizes: Sizes, plan: Plan, compiled: bool = False) -> Step:
    return _ours(sizes, plan, compiled) if name == "pellucid" else _transformers(sizes, plan)


class _Given:
    """One batch, whatever the step."""

    steps_per_epoch = 1.0
    now: Batch

    def batch(self, step: int) -> Batch:
        """The batch that was put in."""
        return self.now


def _ours(sizes: Sizes, plan: Plan, compiled: bool) -> Step:
    model = build(sizes, VOCABULARY, plan.context)
    initialise(model, 0)
    given = _Given()
    trainer = Trainer(model, given, plan, Path(), compiled=compiled)

    def step(batch: Batch) -> object:
        given.now = batch
        return trainer.advance()

    return step


def _transformers(sizes: Sizes, plan: Plan) -> Step:
    library: Any = importlib.import_module("transformers")  # not a dependency
    config: Any = build(sizes, VOCABULARY, plan.context).config
    described = library.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=config.width, num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads, intermediate_size=config.ffn_width, max_position_embeddings=plan.context,
        tie_word_embeddings=config.tied,
    )  # fmt: skip
    model = library.LlamaForCausalLM(described)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=(plan.beta1, plan.beta2), fused=True)  # its Trainer's default

    def step(batch: Batch) -> object:
        targets = torch.cat([batch.ids[:, :1], batch.targets], 1)  # it shifts them itself
        loss = model(input_ids=torch.cat([batch.ids, batch.targets[:, -1:]], 1), labels=targets, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _alone(name: str, sizes: Sizes, plan: Plan) -> float:
    """The peak memory of three steps in a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, sizes, replace(plan), torch.get_num_threads()))


def _peak(name: str, sizes: Sizes, plan: Plan, threads: int) -> float:
    torch.set_num_threads(threads)
    step = _stepper(name, sizes, plan)
    data = Stream([Document(np.arange(100_000, dtype=np.int32) % VOCABULARY)], plan.context, plan.batch)
    for i in range(3):
        step(data.batch(i))
    return _high_water()


def _high_water() -> float:
    """The largest resident size of this process, in megabytes; what its parent had does not count (in `ru_maxrss` it does)."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return peak_megabytes()
