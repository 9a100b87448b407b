"""From a target to an `Attribution` with its quality card: the one entry for all methods.

Any causal language model will do that offers the few methods of `explain.target` (`explain.huggingface` and `explain.remote` are two ready
ones), so `from explain import attribute` works outside this program too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from explain import attention, balanced, faithfulness, gradients, perturbation, sampling
from explain.attribution import Attribution
from explain.problem import Problem, Scores
from explain.target import Target
from explain.units import LEVELS, Unit, group, limited, sentences

FORMAT = "format"
"""The role of template tokens: always kept, never scored."""
FEATURES = 64
"""With level `auto`, more pieces than this are joined: first those of earlier messages, to words, sentences, whole messages."""
POSITIONS = 1024
"""Token positions run through the model at once: the smaller, the sooner it can be stopped."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to explain, and about how many sequences it runs for F features."""

    run: Callable[[Problem], Scores]
    cost: Callable[[Problem], int]


METHODS: dict[str, Method] = {
    balanced.NAME: Method(balanced.balance, lambda p: balanced.cost(len(p.features), p.samples // 2 or balanced.PAIRS)),
    perturbation.NAME: Method(perturbation.ablate, lambda p: len(p.features) + 1),
    gradients.NORM: Method(gradients.norm, lambda p: 1),
    attention.LEARNED: Method(attention.learned, lambda p: 1),
    gradients.INTEGRATED: Method(gradients.integrate, lambda p: p.steps),
    sampling.CONTEXTCITE: Method(sampling.contextcite, lambda p: p.samples or sampling.MOST_SUBSETS),
    sampling.SHAPLEY: Method(sampling.shapley, lambda p: (p.samples or sampling.MOST_ORDERS) * len(p.features)),
    gradients.PRODUCT: Method(gradients.product, lambda p: 1),
    attention.ROLLOUT: Method(attention.rollout, lambda p: 1),
}
"""All methods by name; the first is the faithful default."""

IN_NATS = (balanced.NAME, perturbation.NAME, sampling.CONTEXTCITE, gradients.PRODUCT)
"""Methods whose scores should sum to what the whole prompt brings, and do not say themselves by how much they miss it."""


class Cancelled(Exception):
    """The person stopped the computation."""


def attribute(
    target: Target,
    prompt: Sequence[bytes],
    roles: Sequence[str],
    reply: Sequence[bytes],
    *,
    method: str = balanced.NAME,
    token: int | None = None,
    span: tuple[int, int] | None = None,
    sentence: int | None = None,
    level: str = "auto",
    baseline_id: int = 0,
    steps: int = 32,
    samples: int = 0,
    seed: int = 0,
    batch: int = 0,
    coefficients: Tensor | None = None,
    known: dict[bytes, Tensor] | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Attribution:
    """Explain the whole reply, or its token number `token`, its tokens `span` = (from, to), or its sentence number `sentence`.

    prompt, reply: the bytes of each token; roles: parallel to the prompt, `format` for template tokens. Both ablations and Shapley give
    one row of scores per unit of what is explained, the others one row for all of it. `known` collects every subset that was
    scored: given again after a stop, nothing is computed twice. Raises ValueError for an unknown method or level, a part outside the
    reply, or a prompt with nothing to attribute to, FloatingPointError for gradients that are not finite, Cancelled when told to stop.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(METHODS)}")
    outputs, name = select(group(reply, [""] * len(reply)), len(reply), token, span, sentence)
    began, forwards = time.perf_counter(), target.forwards
    units, shown_level = at_level(group(prompt, roles), level)
    features = [unit for unit in units if unit.role != FORMAT]
    if not features:
        raise ValueError("the prompt has no words to attribute the reply to")
    done, total = 0, 1

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done / total, 1.0))
        if cancelled():
            raise Cancelled

    problem = Problem(
        target, features, outputs, roles, baseline_id, steps, samples, seed,
        batch or max(1, min(16, POSITIONS // (target.prompt_length + target.reply_length))),
        coefficients, on_batch, {} if known is None else known,
    )  # fmt: skip
    total = METHODS[method].cost(problem) + faithfulness.TESTS
    scores = METHODS[method].run(problem)
    explained_in = time.perf_counter() - began
    totals = [sum(row[i] for row in scores.rows) for i in range(len(features))]
    quality = {
        "method": method, "features": len(features), "level": shown_level, "seed": seed, "stability": 1.0,
        **({"completeness_error": faithfulness.completeness(problem, totals)} if method in IN_NATS else {}),
        **scores.card,
        **faithfulness.card(
            faithfulness.deletion_test(problem, totals), faithfulness.insertion_test(problem, totals), len(features)
        ),
    }  # fmt: skip
    if "format_share" not in quality:
        quality["format_share"] = faithfulness.format_share(problem, totals)
    quality |= {
        "log_prob": float(problem.total(problem.everything)),
        "forwards": target.forwards - forwards,
        "method_seconds": explained_in,
        "seconds": time.perf_counter() - began,
    }
    column = {unit: i for i, unit in enumerate(features)}

    def spread(row: Sequence[float]) -> tuple[float, ...]:
        return tuple(row[column[unit]] if unit in column else 0.0 for unit in units)

    progress(1.0)
    return Attribution(
        method=method,
        target=name,
        input_tokens=tuple(unit.text for unit in units),
        input_roles=tuple(unit.role for unit in units),
        output_tokens=tuple(scores.labels),
        scores=tuple(spread(row) for row in scores.rows),
        quality=quality,
        errors=spread(scores.errors) if scores.errors else (),
    )


def at_level(units: Sequence[Unit], level: str) -> tuple[list[Unit], str]:
    """Units joined to a level, and what was done in words; `auto` joins only what is too many. Raises ValueError for an unknown level."""
    if level != "auto" and level not in LEVELS:
        raise ValueError(f"there is no level {level!r}: choose auto, {', '.join(LEVELS)}")
    return limited(units, FORMAT, FEATURES) if level == "auto" else (LEVELS[level](units), level)


def select(
    outputs: Sequence[Unit], length: int, token: int | None = None, span: tuple[int, int] | None = None, sentence: int | None = None
) -> tuple[list[Unit], str]:
    """The units of a reply of `length` tokens that were asked for, and their name. Raises ValueError for what is not there."""
    if sum(choice is not None for choice in (token, span, sentence)) > 1:
        raise ValueError("give a token, a span or a sentence, not several of them")
    if sentence is not None:
        found = sentences(outputs)
        if not 0 <= sentence < len(found):
            raise ValueError(f"the reply has sentences 0 to {len(found) - 1}, not {sentence}")
        return _within(outputs, found[sentence].start, found[sentence].end), f"sentence {sentence}"
    if token is not None:
        if not 0 <= token < length:
            raise ValueError(f"the reply has tokens 0 to {length - 1}, not {token}")
        return _within(outputs, token, token + 1), f"token {token}"
    if span is not None:
        start, end = span
        if not 0 <= start < end <= length:
            raise ValueError(f"the reply has tokens 0 to {length - 1}: {start}:{end} is no part of it")
        return _within(outputs, start, end), f"tokens {start}:{end}"
    return list(outputs), "reply"


def _within(outputs: Sequence[Unit], start: int, end: int) -> list[Unit]:
    return [unit for unit in outputs if unit.start < end and start < unit.end]
