"""What really happens to one reply token when a part of the conversation was never said: the model is run once more without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistant.errors import ExplanationError
from assistant.explaining import prompt_roles
from assistant.turn import Candidate, Turn

if TYPE_CHECKING:
    from assistant.lm.engine import Engine


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
