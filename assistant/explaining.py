"""Explaining a logged turn with the loaded model: who said what in the prompt, the self-check, and the errors a user can act on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from assistant.errors import ExplanationError
from assistant.turn import Turn
from explain.attribution import Attribution

if TYPE_CHECKING:
    from assistant.lm.engine import Engine

Progress = Callable[[str, float | None], None]

TOLERANCE = {"float32": (0.002, 0.02), "int4": (0.15, 1.5), "bfloat16": (0.1, 1.0), "float16": (0.05, 0.5)}
"""Per dtype: how far the explainer's log-probabilities (dense weights) may lie from the logged ones, on average and at most, in nats."""


def explain_turn(
    engine: Engine,
    turn: Turn,
    history: Sequence[Turn],
    *,
    method: str,
    token: int | None,
    level: str = "auto",
    progress: Progress = lambda what, fraction: None,
    cancel: threading.Event | None = None,
) -> Attribution:
    """The attribution of a turn's reply, or of its token number `token`. `history`: the turns before it, oldest first.

    Raises ExplanationError when there is no reply to explain, another model is loaded, the explainer would score something else than the
    generator did, or the request makes no sense.
    """
    from assistant.lm.scoring import ReplyScorer
    from explain.attribute import Cancelled, attribute

    if not turn.tokens or not turn.prompt_ids:
        raise ExplanationError(f"turn {turn.id} has no generated reply to explain (it was blocked, or its text was erased)")
    if turn.model.sha256 != engine.info.sha256:
        raise ExplanationError(f"turn {turn.id} was written by {turn.model.name}: load that model to explain it")
    tokenizer = engine.tokenizer
    scorer = ReplyScorer(engine.model, turn.prompt_ids, [t.id for t in turn.tokens])
    agreement = self_check(scorer, turn)
    try:
        attribution = attribute(
            scorer,
            [tokenizer.bytes_of(i) or tokenizer.text_of(i).encode() for i in turn.prompt_ids],
            prompt_roles(engine, turn, history),
            [tokenizer.bytes_of(t.id) or tokenizer.text_of(t.id).encode() for t in turn.tokens],
            method=method,
            token=token,
            level=level,
            baseline_id=engine.neutral_id,
            progress=lambda fraction: progress("explaining", fraction),
            cancelled=lambda: cancel is not None and cancel.is_set(),
        )
    except (ValueError, FloatingPointError) as error:
        raise ExplanationError(str(error)) from error
    except Cancelled:
        raise ExplanationError("the explanation was stopped") from None
    quality = {**attribution.quality, **agreement, "model": engine.info.name, "dtype": engine.info.dtype}
    return Attribution(
        attribution.method, attribution.target, attribution.input_tokens, attribution.output_tokens,
        attribution.scores, quality, attribution.input_roles,
    )  # fmt: skip


def self_check(scorer: object, turn: Turn) -> dict[str, float]:
    """The explainer must see the probabilities that the generator logged. Raises ExplanationError when it does not."""
    import torch

    from assistant.lm.scoring import ReplyScorer

    assert isinstance(scorer, ReplyScorer)
    mine = scorer.log_probs(torch.ones(1, scorer.prompt_length, dtype=torch.bool))[0].cpu()
    gaps = (mine - torch.tensor([t.logprob for t in turn.tokens])).abs()
    mean, worst = float(gaps.mean()), float(gaps.max())
    allowed_mean, allowed_worst = TOLERANCE.get(turn.model.dtype, TOLERANCE["bfloat16"])
    if not (mean <= allowed_mean and worst <= allowed_worst):  # also refuses NaN
        raise ExplanationError(
            f"the explainer's log-probabilities differ from the logged ones of turn {turn.id} by {mean:.3f} nats on average "
            f"({worst:.3f} at most): it would explain something else, so it does not"
        )
    return {"generator_gap_mean": mean, "generator_gap_max": worst}


def prompt_roles(engine: Engine, turn: Turn, history: Sequence[Turn]) -> list[str]:
    """For each prompt token `system`, `user`, `assistant`, or `format` for the template's own."""
    from assistant.pipeline import as_messages
    from explain.attribute import FORMAT

    if turn.raw:
        # something must be left to predict from: the first token stays
        return [FORMAT] + ["user"] * (len(turn.prompt_ids) - 1)
    shown = [earlier for earlier in history if earlier.in_context]
    prompt = engine.render(as_messages(turn.system, shown, turn.prompt), reserve=turn.sampling.max_tokens)
    if prompt.ids == turn.prompt_ids:
        return [piece.role or FORMAT for piece in prompt.pieces]
    # an earlier turn was erased, or the context setting differs: only the control tokens are certain
    return [FORMAT if i in engine.tokenizer.control else "user" for i in turn.prompt_ids]
