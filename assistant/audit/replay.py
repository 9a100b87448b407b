"""Would the logged model, asked the logged prompt with the logged sampling, have written the logged reply?

One pass over prompt and reply gives every token's probability again, and the noise of the sampler is a hash of seed, step and
token: so for every token it can be said whether the sampler would have chosen it, and by how much it missed. Another machine adds
its numbers in another order; the tolerances allow for that and for nothing more. Knows no torch: see `rescore` for the model's part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from assistant.errors import ExplanationError, LedgerError
from assistant.store.ledger import Ledger
from assistant.turn import SERVED, ModelInfo, Turn
from safety.verdict import Verdict


class Outcome(StrEnum):
    """What a replay says about a reply, from best to worst."""

    EXACT = "EXACT"  # every number is the same, bit for bit
    CONSISTENT = "CONSISTENT"  # the same within what another machine may differ
    NOT_REPLAYABLE = "NOT-REPLAYABLE"  # nothing can be said: erased, blocked, another model
    SAMPLER_MISMATCH = "SAMPLER-MISMATCH"  # this model, but it would not have chosen these tokens: other seed or settings
    MODEL_MISMATCH = "MODEL-MISMATCH"  # another model, prompt or text


@dataclass(frozen=True, slots=True)
class Step:
    """One reply token, scored again."""

    logprob: float
    """Of the logged token, in nats."""
    margin: float
    """By how much another token beat it in the sampler; 0 when it wins again, infinite when it was not even a candidate."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """A whole reply, scored again."""

    steps: Sequence[Step]
    ended: bool | None
    """Whether the model would have ended the reply here; None when it was not the model that ended it."""
    stepwise: bool = True
    """Token by token, as it was generated; else in one pass."""
    tight: bool = True
    """Whether the numbers must agree closely: float32 on both sides, or the very same steps with the same cache."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Replayable(Protocol):
    """What a replay needs of an engine."""

    @property
    def info(self) -> ModelInfo: ...
    def render(self, turn: Turn, history: Sequence[Turn]) -> tuple[int, ...]:
        """The prompt ids that turn and history give now."""

    def rescore(self, turn: Turn, before: Sequence[Turn], *, exact: bool) -> Rescored:
        """The reply scored again: in one pass, or with `exact` token by token as it was generated.

        `before`: the turns whose keys and values were still in the cache then, oldest first.
        """


class Judge(Protocol):
    """What a replay needs of the guard."""

    policy: str

    def filter_prompt(self, text: str, *, context: Sequence[tuple[str, str]] = ()) -> Verdict: ...
    def moderate(self, text: str, *, prompt: str = "", system: str = "") -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a faithful replay may differ."""

    margin: float
    worst: float
    """Of one log-probability."""
    mean: float
    """Of all log-probabilities."""


SAME = Tolerance(0.01, 1e-3, 1e-3)
"""The same arithmetic: only thread counts and kernels may differ."""
CLOSE = Tolerance(0.5, 0.75, 0.06)
"""Reduced precision on either side: packed weights, bfloat16, another device."""
_SCORE = 1e-3
"""A verdict's score may differ by so much."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The result for one turn."""

    turn: str
    outcome: Outcome
    reason: str = ""
    tokens: int = 0
    mismatches: int = 0
    """Tokens that the sampler would not have chosen now."""
    worst_margin: float = 0.0
    worst_logprob: float = 0.0
    mean_logprob: float = 0.0
    """Differences of log-probability, absolute."""
    prompt: str = ""
    """Whether the logged prompt renders to the ids that were fed: `same`, `differs`, or why that cannot be said."""
    ended: bool | None = None
    safety: Mapping[str, str] = field(default_factory=dict)
    """For `prompt` and `reply`: `same`, or what the guard decides now, or why that cannot be said."""
    environment: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[tuple[float, float]] = ()
    """For every reply token: difference of log-probability, margin."""

    @property
    def is_faithful(self) -> bool:
        """Whether nothing contradicts the log."""
        good = (
            self.outcome not in (Outcome.SAMPLER_MISMATCH, Outcome.MODEL_MISMATCH) and self.prompt != "differs" and self.ended is not False
        )
        return good and not any(answer.startswith("now ") for answer in self.safety.values())

    def to_dict(self, *, steps: bool = False) -> dict[str, Any]:
        """The result under its public JSON names, with `steps` token by token; what is infinite or no number is null."""
        margin = _finite(self.worst_margin)
        out = {**asdict(self), "outcome": self.outcome.value, "worst_margin": margin, "faithful": self.is_faithful}
        out["steps"] = [{"delta_logprob": _finite(delta), "margin": _finite(margin)} for delta, margin in self.steps]
        return out if steps else {name: value for name, value in out.items() if name != "steps"}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def replay(ledger: Ledger, turn_id: str, engine: Replayable | None, guard: Judge | None = None, *, exact: bool = False) -> Replay:
    """Replay one logged turn: the reply with `engine`, the safety verdicts with `guard`, each where it is given."""
    turn, history = logged(ledger, turn_id)
    cached = [ledger.turn(earlier.id) for earlier in history] if turn.usage.cached_tokens else []
    return replay_turn(turn, history, cached, engine, guard, exact=exact)


def logged(ledger: Ledger, turn_id: str) -> tuple[Turn, list[Turn]]:
    """The turn, and the turns that were its context, oldest first."""
    turn = ledger.turn(turn_id)
    return turn, [earlier for earlier in _history(ledger, turn) if earlier.in_context]


def replay_turn(
    turn: Turn, history: Sequence[Turn], cached: Sequence[Turn], engine: Replayable | None, guard: Judge | None, *, exact: bool = False
) -> Replay:
    """`replay` without the log: `history` is the turn's context, `cached` the same with tokens where its keys were still in the cache."""
    safety = _replay_safety(turn, history, guard) if guard is not None else {}
    if reason := _not_replayable(turn, engine):
        return Replay(turn.id, Outcome.NOT_REPLAYABLE, reason, safety=safety)
    assert engine is not None
    rendered = _compare_prompt(turn, history, engine)
    try:
        rescored = engine.rescore(turn, cached, exact=exact)
    except ExplanationError as error:  # a server that scores no given text
        return Replay(turn.id, Outcome.NOT_REPLAYABLE, str(error), safety=safety)
    deltas = [abs(token.logprob - step.logprob) for token, step in zip(turn.tokens, rescored.steps, strict=True)]
    margins = [step.margin for step in rescored.steps]
    outcome, reason = judge(deltas, margins, SAME if rescored.tight else CLOSE, exact=rescored.stepwise)
    if turn.model.dtype == SERVED:
        outcome, reason = _of_server(outcome, reason, turn)
    return Replay(
        turn.id, outcome, reason, len(deltas), sum(margin > 0 for margin in margins), max(margins), max(deltas),
        sum(deltas) / len(deltas), rendered, rescored.ended, safety, rescored.environment,
        tuple(zip(deltas, margins, strict=True)),
    )  # fmt: skip


def judge(deltas: Sequence[float], margins: Sequence[float], allowed: Tolerance, *, exact: bool) -> tuple[Outcome, str]:
    """The outcome for the differences of log-probability and the margins of one reply."""
    worst, mean, margin = max(deltas), sum(deltas) / len(deltas), max(margins)
    if not (worst <= allowed.worst and mean <= allowed.mean):  # also catches NaN
        return Outcome.MODEL_MISMATCH, f"log-probabilities differ by {mean:.3g} nats on average, {worst:.3g} at most"
    if not margin <= allowed.margin:
        at = margins.index(margin)
        return Outcome.SAMPLER_MISMATCH, f"the sampler would not have chosen token {at}" + (
            f" (margin {margin:.3g})" if margin < math.inf else ""
        )
    if exact and worst == 0 and margin == 0:
        return Outcome.EXACT, ""
    return Outcome.CONSISTENT, ""


def _of_server(outcome: Outcome, reason: str, turn: Turn) -> tuple[Outcome, str]:
    """What scoring again by a server proves: that it finds the reply as likely as then. Not that it would have drawn it, and where its
    numbers differ it may be our layout of the conversation that is another.
    """
    if outcome is Outcome.MODEL_MISMATCH and not turn.raw:
        return Outcome.NOT_REPLAYABLE, f"{reason}: another model, or another chat format than the one named with --chat-format"
    return outcome, reason or "scored again by the server; how it draws tokens cannot be repeated"


def _not_replayable(turn: Turn, engine: Replayable | None) -> str:
    if turn.erased:
        return f"parts of it were erased ({', '.join(turn.erased)})"
    served = turn.model.dtype == SERVED
    if not turn.tokens or not (turn.prompt_ids or served):
        return "nothing was generated"
    if engine is None:
        return f"the model {turn.model.name} is not here"
    if served and any(math.isnan(token.logprob) for token in turn.tokens):
        return "the server told no log-probabilities then"
    if served and (engine.info.name, engine.info.device) != (turn.model.name, turn.model.device):
        return f"it was written by another server ({turn.model.name}, {turn.model.device})"
    if turn.model.sha256 != engine.info.sha256:
        return f"it was written by another model file ({turn.model.name}, {turn.model.sha256[:12]})"
    return ""


def _compare_prompt(turn: Turn, history: Sequence[Turn], engine: Replayable) -> str:
    """Whether the logged texts give the logged ids: the template and the tokenizer are those of the model file."""
    if turn.model.dtype == SERVED:
        return "not known (the server lays it out)"
    if any(earlier.erased for earlier in history):
        return "earlier turns were erased"
    return "same" if engine.render(turn, history) == turn.prompt_ids else "differs"


def _history(ledger: Ledger, turn: Turn) -> list[Turn]:
    try:
        return ledger.thread(turn.parent)
    except LedgerError:
        return []  # the parent stands in another log


def _replay_safety(turn: Turn, history: Sequence[Turn], guard: Judge) -> dict[str, str]:
    if {"prompt", "reply"} & set(turn.erased):
        return {"prompt": "erased", "reply": "erased"}
    context: list[tuple[str, str]] = [(message.role, message.text) for message in turn.earlier]
    context += [pair for earlier in history for pair in (("user", earlier.prompt), ("assistant", earlier.reply))]
    out: dict[str, str] = {}
    if turn.prompt_verdict.redacted is not None:
        out["prompt"] = "the text it judged was redacted before it was logged"
    else:
        out["prompt"] = _compare(turn.prompt_verdict, guard, lambda: guard.filter_prompt(turn.prompt, context=context))
    if turn.output_verdict is not None and turn.tokens:
        text = "".join(token.text for token in turn.tokens)  # what the model wrote, before anything was withdrawn or hidden
        out["reply"] = _compare(turn.output_verdict, guard, lambda: guard.moderate(text, prompt=turn.prompt, system=turn.system))
    return out


def _compare(logged: Verdict, guard: Judge, decide: Any) -> str:
    if logged.policy and logged.policy != guard.policy:
        return f"it was judged by {logged.policy}, here is {guard.policy}"
    now: Verdict = decide()
    if now.action != logged.action or abs(now.score - logged.score) > _SCORE:
        return f"now {now.action.value} ({now.score:.3f}), logged {logged.action.value} ({logged.score:.3f})"
    return "same"
