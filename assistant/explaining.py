"""Explaining a logged turn with the loaded model: who said what in the prompt, the self-check, and the errors a user can act on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistant.errors import ExplanationError
from assistant.turn import Candidate, Turn
from explain.attribution import Attribution

if TYPE_CHECKING:
    from assistant.lm.engine import Engine
    from explain.target import Target

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
    against: int | None = None,
    level: str = "auto",
    progress: Progress = lambda what, fraction: None,
    cancel: threading.Event | None = None,
) -> Attribution:
    """The attribution of a turn's reply, or of its token number `token`. `history`: the turns before it, oldest first.

    With `against`, the id of another token: why `token` rather than that one; the scores are nats of log-odds.
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
    target: Target = scorer if against is None else _contrast(engine, turn, token, against)
    replied = turn.tokens if against is None else turn.tokens[: target.reply_length]
    try:
        attribution = attribute(
            target,
            [tokenizer.bytes_of(i) or tokenizer.text_of(i).encode() for i in turn.prompt_ids],
            prompt_roles(engine, turn, history),
            [tokenizer.bytes_of(t.id) or tokenizer.text_of(t.id).encode() for t in replied],
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
    if against is not None:
        quality["rather_than"] = tokenizer.text_of(against)
    return Attribution(
        attribution.method, attribution.target if against is None else f"token {token} not {against}",
        attribution.input_tokens, attribution.output_tokens,
        attribution.scores, quality, attribution.input_roles,
    )  # fmt: skip


def _contrast(engine: Engine, turn: Turn, token: int | None, against: int) -> Target:
    from assistant.lm.scoring import ReplyScorer
    from explain.target import Contrast

    if token is None or not 0 <= token < len(turn.tokens):
        raise ExplanationError("only one token of the reply can be compared with another: pick it first")
    if not 0 <= against < engine.tokenizer.size or against == turn.tokens[token].id:
        raise ExplanationError("this is no other token: pick one of the candidates")
    before = [t.id for t in turn.tokens[:token]]
    chosen, other = (ReplyScorer(engine.model, turn.prompt_ids, [*before, last]) for last in (turn.tokens[token].id, against))
    return Contrast(chosen, other)


@dataclass(frozen=True, slots=True)
class Ablation:
    """What the model would have thought of one reply token, had a part of the prompt not been there."""

    removed: str
    before: float
    """log p of the token with everything there, in nats."""
    after: float
    """The same without the part."""
    candidates: tuple[Candidate, ...]
    """The likeliest tokens then."""


def ablate_turn(engine: Engine, turn: Turn, history: Sequence[Turn], *, inputs: Sequence[str], part: Sequence[int], token: int) -> Ablation:
    """Really delete a part of the prompt and run the model once more.

    `inputs` are the `input_tokens` of an attribution of this turn, `part` the indices of those to delete, `token` the reply token
    looked at. Raises ExplanationError when they do not belong to this turn or nothing would be left.
    """
    import torch

    if turn.model.sha256 != engine.info.sha256:
        raise ExplanationError(f"turn {turn.id} was written by {turn.model.name}: load that model to explain it")
    if not 0 <= token < len(turn.tokens):
        raise ExplanationError("pick a token of the reply first")
    ranges = _ranges(engine, turn, history, inputs)
    gone = {position for index in part for position in range(*ranges[index])}
    kept = [id for position, id in enumerate(turn.prompt_ids) if position not in gone]
    if not gone or not kept:
        raise ExplanationError("pick a word of the conversation to leave out")
    written = [t.id for t in turn.tokens[:token]]
    chosen = turn.tokens[token].id

    @torch.inference_mode()
    def distribution(ids: list[int]) -> torch.Tensor:
        hidden = engine.model(torch.tensor([ids], device=engine.device))
        return torch.log_softmax(engine.model.logits(hidden[0, -1]).float(), 0)

    before, after = distribution([*turn.prompt_ids, *written]), distribution([*kept, *written])
    best = torch.topk(after, 5)
    candidates = tuple(
        Candidate(i, engine.tokenizer.text_of(i), p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    return Ablation("".join(inputs[index] for index in part), float(before[chosen]), float(after[chosen]), candidates)


def _ranges(engine: Engine, turn: Turn, history: Sequence[Turn], inputs: Sequence[str]) -> list[tuple[int, int]]:
    """Which prompt tokens each of `inputs` consists of."""
    from explain.units import group

    tokenizer = engine.tokenizer
    pieces = [tokenizer.bytes_of(i) or tokenizer.text_of(i).encode() for i in turn.prompt_ids]
    units = iter(group(pieces, prompt_roles(engine, turn, history)))
    ranges, end = [], 0
    for text in inputs:
        start, found = end, ""
        while len(found) < len(text):
            unit = next(units, None)
            if unit is None:
                raise ExplanationError("this explanation belongs to another prompt: explain the reply again")
            found, end = found + unit.text, unit.end
        if found != text:
            raise ExplanationError("this explanation belongs to another prompt: explain the reply again")
        ranges.append((start, end))
    return ranges


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
    if turn.prompt_ids[: len(prompt.ids)] == prompt.ids:  # what follows is the beginning of a reply that was gone on with
        return [piece.role or FORMAT for piece in prompt.pieces] + ["assistant"] * (len(turn.prompt_ids) - len(prompt.ids))
    # an earlier turn was erased, or the context setting differs: only the control tokens are certain
    return [FORMAT if i in engine.tokenizer.control else "user" for i in turn.prompt_ids]
