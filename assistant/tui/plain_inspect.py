"""The inspector in words, for the line mode: what its keys do is asked for on one line.

`/inspect` explains the whole last reply; `/inspect token 3`, `/inspect sentence 1`, `/inspect token 3 rather Berlin`, `method` and `level`
before `rather`; `/inspect without 5 token 3` runs the model once more without piece 5 of the conversation. Pieces are numbered as listed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from assistant.errors import UsageError
from assistant.tui import inspection
from assistant.tui.backend import SessionLike
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.turn import Candidate, Turn

_NUMBERS = ("token", "sentence", "without")
_WORDS = ("method", "level")


def parse(argument: str) -> dict[str, Any]:
    """The question on the line: `token`, `sentence` and `without` are numbers from 0 on, as on the command line. Raises UsageError."""
    question: dict[str, Any] = {}
    rest = argument
    while rest := rest.strip():
        name, _, rest = rest.partition(" ")
        if name == "rather" and rest.strip():
            question["contrast"], rest = rest.strip(), ""
            continue
        value, _, rest = rest.strip().partition(" ")
        if name in _NUMBERS and value.isascii() and value.isdecimal():
            question[name] = int(value)
        elif name in _WORDS and value:
            question[name] = value
        else:
            raise UsageError(say("plain.inspect_how"))
    if "without" in question and "token" not in question:
        raise UsageError(say("plain.inspect_how"))
    return question


def inspect(session: SessionLike, turn: Turn, argument: str) -> list[str]:
    """What the inspector would show, as lines. Explanations that are kept are not computed again."""
    from explain import render

    question = parse(argument)
    if not turn.in_context or not turn.reply:
        raise UsageError(say("error.nothing_to_inspect"))
    turn = session.ledger.turn(turn.id)  # with its tokens
    if "token" in question and question["token"] >= len(turn.tokens):
        raise UsageError(say("plain.inspect_tokens", last=len(turn.tokens) - 1))
    if "without" in question:
        return _without(session, turn, question["without"], question["token"])
    if not question:
        kept = session.ledger.attributions(turn.id)
        found = kept[-1] if kept else session.explain(turn.id)
    else:
        found = session.explain(turn.id, **question)
    return [render.terminal(found, colour=False), _numbered(found.input_tokens), *_candidates(turn, question)]


def _without(session: SessionLike, turn: Turn, piece: int, token: int) -> list[str]:
    """The true change of a reply token when one piece of the conversation is not there."""
    kept = session.ledger.attributions(turn.id)
    inputs = (kept[-1] if kept else session.explain(turn.id)).input_tokens
    if piece >= len(inputs):
        raise UsageError(say("plain.inspect_pieces", last=len(inputs) - 1))
    found = session.ablate(turn.id, inputs=inputs, part=[piece], token=token)
    changed = inspection.ablation_line(found.removed, found.before, found.after)
    return [changed, say("inspector.candidates_without") + ": " + _listed(found.candidates)]


def _numbered(pieces: Sequence[str]) -> str:
    return say("plain.inspect_listed") + " " + " ".join(f"{number}:{one_line(piece, 20) or '␣'}" for number, piece in enumerate(pieces))


def _candidates(turn: Turn, question: dict[str, Any]) -> list[str]:
    """What else could have stood at the token, in the words that `rather` takes."""
    if "token" not in question:
        return []
    token = turn.tokens[question["token"]]
    return [say("plain.inspect_candidates", token=one_line(token.text, 30), candidates=_listed(token.candidates))]


def _listed(candidates: Sequence[Candidate]) -> str:
    return ", ".join(f"{one_line(c.text, 30)} {math.exp(c.logprob):.3f}" for c in candidates)
