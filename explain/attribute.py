"""From a target to an `Attribution` with its quality card: the one entry for all methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from explain import gradients, perturbation
from explain.attribution import Attribution
from explain.faithfulness import RANDOM_DRAWS, deletion_test, grade
from explain.target import Target
from explain.units import LEVELS, group, limited

METHODS = (perturbation.NAME, gradients.NAME)
FORMAT = "format"
"""The role of template tokens: always kept, never scored."""
FEATURES = 64
"""With level `auto`, more pieces than this are joined: first those of earlier messages, to words, sentences, whole messages."""
POSITIONS = 1024
"""Token positions run through the model at once: the smaller, the sooner it can be stopped."""


class Cancelled(Exception):
    """The person stopped the computation."""


def attribute(
    target: Target,
    prompt: Sequence[bytes],
    roles: Sequence[str],
    reply: Sequence[bytes],
    *,
    method: str = perturbation.NAME,
    token: int | None = None,
    level: str = "auto",
    baseline_id: int = 0,
    steps: int = 32,
    batch: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Attribution:
    """Explain the whole reply, or its token number `token`.

    prompt, reply: the bytes of each token; roles: parallel to the prompt, `format` for template tokens. Ablation gives one row of
    scores per unit of the reply; integrated
    gradients one row for the whole target. Raises ValueError for an unknown method, a token outside
    the reply, or a prompt with nothing to attribute to, FloatingPointError for gradients that are not finite, Cancelled when told to stop.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: choose {' or '.join(METHODS)}")
    if level != "auto" and level not in LEVELS:
        raise ValueError(f"there is no level {level!r}: choose auto, {', '.join(LEVELS)}")
    if token is not None and not 0 <= token < len(reply):
        raise ValueError(f"the reply has tokens 0 to {len(reply) - 1}, not {token}")
    batch = batch or max(1, min(16, POSITIONS // (target.prompt_length + target.reply_length)))
    began, forwards = time.perf_counter(), target.forwards
    units, shown_level = group(prompt, roles), level
    if level == "auto":
        units, shown_level = limited(units, FORMAT, FEATURES)
    else:
        units = LEVELS[level](units)
    features = [unit for unit in units if unit.role != FORMAT]
    outputs = group(reply, [""] * len(reply))
    if token is not None:
        outputs = [unit for unit in outputs if unit.start <= token < unit.end]
    rows = [i for unit in outputs for i in range(unit.start, unit.end)]
    if not features:
        raise ValueError("the prompt has no words to attribute the reply to")
    done, total = 0, len(features) + 2 + RANDOM_DRAWS + 2

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done / total, 1.0))
        if cancelled():
            raise Cancelled

    quality: dict[str, object] = {"method": method, "features": len(features), "level": shown_level}
    if method == perturbation.NAME:
        matrix = perturbation.ablate(target, features, batch=batch, on_batch=on_batch)
        per_output = [matrix[unit.start : unit.end].sum(0).tolist() for unit in outputs]
        quality["removal"] = "deleted"
        labels = [unit.text for unit in outputs]
    else:
        scores, difference, error = gradients.integrate(target, features, rows, baseline_id=baseline_id, steps=steps)
        per_output = [scores.tolist()]
        quality |= {"steps": steps, "baseline": "neutral token", "difference": difference, "completeness_error": error}
        labels = ["".join(unit.text for unit in outputs)]
        on_batch(len(features) + 1)
    totals = [sum(row[i] for row in per_output) for i in range(len(features))]
    forward = perturbation.forward_function(target, features, on_batch)
    test = deletion_test(forward, totals, rows, batch=batch)
    everything = forward(torch.ones(1, len(features)))[0, rows]
    quality |= {f"deletion_{name}": value for name, value in test.items()}
    quality |= {
        "grade": grade(test, len(features)),
        "log_prob": float(everything.sum()),
        "forwards": target.forwards - forwards,
        "seconds": time.perf_counter() - began,
    }
    column = {unit: i for i, unit in enumerate(features)}
    progress(1.0)
    return Attribution(
        method=method,
        target="reply" if token is None else f"token {token}",
        input_tokens=tuple(unit.text for unit in units),
        input_roles=tuple(unit.role for unit in units),
        output_tokens=tuple(labels),
        scores=tuple(tuple(row[column[unit]] if unit in column else 0.0 for unit in units) for row in per_output),
        quality=quality,
    )
