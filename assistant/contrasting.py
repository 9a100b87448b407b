"""What of a logged reply is to be explained, and against what: a part of it, another token, another text, another reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assistant.turn import Turn

if TYPE_CHECKING:
    from assistant.lm.engine import Engine
    from assistant.lm.scoring import ReplyScorer
    from explain.target import Target


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be explained, and how. At most one of `token`, `span` and `sentence`; none of them: the whole reply."""

    method: str = "balanced-ablation"
    """One of `explain.attributing.METHODS`, or `fast`: learned attention where it was fitted to the model, else gradient-norm."""
    token: int | None = None
    span: tuple[int, int] | None = None
    """Tokens of the reply, from and (exclusive) to."""
    sentence: int | None = None
    contrast: str | None = None
    """A text in place of that part: why the reply rather than this?"""
    against: int | None = None
    """The id of a token in place of `token`: the same for a candidate of the generator."""
    than: str = ""
    """The id of another turn that answers the same prompt: why this reply rather than that one?"""
    level: str = "auto"
    samples: int = 0
    seed: int = 0


def aim(
    engine: Engine, turn: Turn, scorer: ReplyScorer, question: Question, rival: Turn | None = None
) -> tuple[Target, list[bytes], dict[str, Any], str]:
    """(the target, the pieces of its reply, the part of it to explain, its name if it is a comparison). `rival`: the turn that
    `question.than` names. Raises ValueError for a question that makes no sense.
    """
    from assistant.lm.scoring import ReplyScorer
    from explain.attributing import select
    from explain.target import Difference
    from explain.units import group

    reply_ids = [t.id for t in turn.tokens]
    reply = [token_bytes(engine, i) for i in reply_ids]
    part = {"token": question.token, "span": question.span, "sentence": question.sentence}
    if question.than:
        return _pair(engine, turn, rival, scorer, question)
    if question.against is not None:
        return _against(engine, turn, question)
    if question.contrast is None:
        return scorer, reply, part, ""
    units, name = select(group(reply, [""] * len(reply)), len(reply), **part)  # type: ignore[arg-type]
    start, end = units[0].start, units[-1].end
    text = "".join(unit.text for unit in units)
    other = question.contrast
    if text.startswith(" ") and not other.startswith(" "):
        other = " " + other  # most tokens of alphabetic scripts bring their space along
    ids = engine.tokenizer.encode(other)
    if not ids:
        raise ValueError("there is nothing to compare with: give a text after --contrast")
    if ids == reply_ids[start:end] or other == text:
        raise ValueError(f"{other!r} is what the reply says: compare with something else")
    difference = Difference(
        ReplyScorer(engine.model, turn.prompt_ids, reply_ids[:end]),
        ReplyScorer(engine.model, turn.prompt_ids, reply_ids[:start] + ids),
        range(start, end),
        range(start, start + len(ids)),
    )
    label = f"{text.strip()} ≠ {other.strip()}"
    return difference, [label.encode()], {}, f"{name}, rather than {other.strip()!r}"


def _against(engine: Engine, turn: Turn, question: Question) -> tuple[Target, list[bytes], dict[str, Any], str]:
    from assistant.lm.scoring import ReplyScorer
    from explain.target import Difference

    token, other = question.token, question.against
    if token is None or not 0 <= token < len(turn.tokens):
        raise ValueError("only one token of the reply can be compared with another: pick it first")
    if other is None or not 0 <= other < engine.tokenizer.size or other == turn.tokens[token].id:
        raise ValueError("this is no other token: pick one of the candidates")
    before, chosen = [t.id for t in turn.tokens[:token]], turn.tokens[token].id
    one, two = (ReplyScorer(engine.model, turn.prompt_ids, [*before, last]) for last in (chosen, other))
    return Difference(one, two, [token], [token]), [token_bytes(engine, chosen)], {}, f"token {token} not {other}"


def _pair(
    engine: Engine, turn: Turn, other: Turn | None, scorer: ReplyScorer, question: Question
) -> tuple[Target, list[bytes], dict[str, Any], str]:
    """Two whole replies to one prompt; what they begin with in common speaks for neither."""
    from assistant.lm.scoring import ReplyScorer
    from explain.target import Difference

    if any(x is not None for x in (question.token, question.span, question.sentence, question.contrast, question.against)):
        raise ValueError("two replies are compared as a whole: give no part of one, and no other contrast")
    if other is None or not other.tokens or other.id == turn.id:
        raise ValueError(f"turn {question.than} has no other generated reply to compare with")
    if (other.prompt_ids, other.model.sha256) != (turn.prompt_ids, turn.model.sha256):
        raise ValueError(f"turn {other.id} is no reply of the same model to the same prompt: choose one that is")
    mine, theirs = [t.id for t in turn.tokens], [t.id for t in other.tokens]
    same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    if same in (len(mine), len(theirs)):
        raise ValueError(f"turn {other.id} says the same, or one of the two only goes on where the other ends")
    rival = ReplyScorer(engine.model, turn.prompt_ids, theirs)
    target = Difference(scorer, rival, range(same, len(mine)), range(same, len(theirs)))
    said, instead = ("".join(t.text for t in some.tokens[same:]).strip() for some in (turn, other))
    return target, [f"{said} ≠ {instead}".encode()], {}, f"reply, rather than that of turn {other.id}"


def token_bytes(engine: Engine, token: int) -> bytes:
    """What a token stands for."""
    return engine.tokenizer.bytes_of(token) or engine.tokenizer.text_of(token).encode()
