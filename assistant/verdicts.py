"""Explaining a logged safety verdict: the words that moved the classifier, and, for auditors, what would flip it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from assistant.errors import ExplanationError
from assistant.turn import Turn
from explain.attribution import Attribution
from explain.counterfactual import Removed, search
from explain.units import Unit, characters
from safety.explanation import Weight
from safety.guard import Guard, SafetyError
from safety.language import detect
from safety.verdict import Action, Verdict

Side = Literal["prompt", "reply"]


def explain_verdict(guard: Guard, turn: Turn, side: Side, *, counterfactual: bool = False) -> Attribution:
    """Where the verdict on a turn's prompt or reply came from. Scores are logits of the deciding category; rules are named in the card.

    Raises ExplanationError when there is no text to judge, or (for `counterfactual`) nothing that could be flipped.
    """
    began = time.perf_counter()
    text = turn.prompt if side == "prompt" else turn.reply
    if not text:
        raise ExplanationError(f"turn {turn.id} has no {side} to judge (it was blocked before, or its text was erased)")
    verdict = _judge(guard, text, side, turn)
    weights = guard.explain(text, "prompt" if side == "prompt" else "response")
    words = [w for w in weights if w["text"]]
    method = "word-weights" if guard.complete else "exact-linear"  # the encoder's part is found by leaving words out
    quality: dict[str, Any] = {
        "method": method, "action": verdict.action.value, "score": verdict.score, "category": verdict.category,
        "policy": verdict.policy, "rules": sorted({f.rule for f in verdict.findings}),
        "bias": sum(w["weight"] for w in weights if not w["text"]),
        "logged_action": _logged(turn, side),
    }  # fmt: skip
    if words:
        quality |= _tested(guard, text, "prompt" if side == "prompt" else "response", words)
    if guard.complete and detect(text) in ("en", "zh"):
        try:
            marks, threshold = guard.marks(text)
            quality["marked"] = _joined(text, [word for word in marks if word["weight"] >= threshold])
        except SafetyError as error:  # other weights of the encoder: the rest of the explanation stands
            quality["not_marked"] = str(error)
    if counterfactual:
        quality["counterfactual"] = _counterfactual(guard, text, side, turn)
    quality["seconds"] = time.perf_counter() - began
    return Attribution(
        method=method,
        target=f"verdict on the {side}: {verdict.action.value}" + (f", {verdict.category}" if verdict.category else ""),
        input_tokens=tuple(w["text"] for w in words),
        output_tokens=(verdict.category or "nothing",),
        scores=(tuple(w["weight"] for w in words),),
        quality=quality,
        input_roles=("user" if side == "prompt" else "assistant",) * len(words),
    )


def _tested(guard: Guard, text: str, role: Literal["prompt", "response"], words: Sequence[Weight]) -> dict[str, Any]:
    """The quality card's tests: what the category's logit loses without the strongest words, against random ones."""
    from explain.faithfulness import card, deletion, insertion

    def judge(sets: Sequence[Sequence[int]]) -> list[float]:
        return guard.logits(text, [_without(text, [words[i] for i in removed]) for removed in sets], role)

    scores = [word["weight"] for word in words]
    return {**card(deletion(judge, scores), insertion(judge, scores), len(words)), "features": len(words), "stability": 1.0}


def _without(text: str, words: Sequence[Weight]) -> str:
    out, at = [], 0
    for word in sorted(words, key=lambda w: w["start"]):
        out.append(text[at : word["start"]])
        at = max(at, word["end"])
    return "".join([*out, text[at:]])


def _judge(guard: Guard, text: str, side: Side, turn: Turn) -> Verdict:
    return guard.filter_prompt(text) if side == "prompt" else guard.moderate(text, prompt=turn.prompt, system=turn.system)


def _joined(text: str, words: Sequence[Weight]) -> list[str]:
    """The words, those in one that touch each other: Chinese ones are marked character by character."""
    spans: list[tuple[int, int]] = []
    for word in words:
        if spans and spans[-1][1] == word["start"]:
            spans[-1] = spans[-1][0], word["end"]
        else:
            spans.append((word["start"], word["end"]))
    return [text[start:end] for start, end in spans]


def _logged(turn: Turn, side: Side) -> str | None:
    verdict = turn.prompt_verdict if side == "prompt" else turn.output_verdict
    return verdict.action.value if verdict is not None else None


def _counterfactual(guard: Guard, text: str, side: Side, turn: Turn) -> dict[str, Any]:
    """Which words hold the verdict up. The margin is the distance of the action from `allow`: severity plus score, 0 when allowed."""
    units = [u for u in characters([Unit(c, i, i + 1) for i, c in enumerate(text)]) if u.text.strip()]

    def margin(sets: Sequence[Removed]) -> list[float]:
        out = []
        for removed in sets:
            edited = "".join(_kept(text, units, removed))
            verdict = _judge(guard, edited, side, turn) if edited.strip() else Verdict(Action.ALLOW)
            out.append(0.0 if verdict.action is Action.ALLOW else verdict.action.severity + verdict.score)
        return out

    try:
        found = search(len(units), margin)
    except ValueError as error:
        raise ExplanationError(str(error)) from error

    def named(numbers: Sequence[int]) -> list[str]:
        return [units[i].text for i in numbers]

    return {
        "necessary": named(found.necessary), "sufficient": named(found.sufficient),
        "flip": None if found.flip is None else named(found.flip),
        "edit_share": None if found.flip is None else len(found.flip) / len(units),
        "margin_before": found.margin_before, "margin_after": found.margin_after, "evaluations": found.evaluations,
    }  # fmt: skip


def _kept(text: str, units: Sequence[Unit], removed: Removed) -> list[str]:
    out, at = [], 0
    for i, unit in enumerate(units):
        if i in removed:
            out.append(text[at : unit.start])
            at = unit.end
    return [*out, text[at:]]
