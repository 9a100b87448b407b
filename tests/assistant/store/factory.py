"""Turns for tests: every field filled, each value recognisable."""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import Any

from assistant.turn import Candidate, ModelInfo, ReplyToken, Sampling, Turn, Usage
from safety.verdict import Action, Finding, Verdict

_numbers = itertools.count(1)

MODEL = ModelInfo("smollm2-135m", "ab" * 32, "float32", "cpu")
ALLOW = Verdict(Action.ALLOW, 0.01, MappingProxyType({"toxicity": 0.01}), policy="balanced@1a2b3c4d", milliseconds=1.5)
BLOCK = Verdict(
    Action.BLOCK,
    0.97,
    MappingProxyType({"weapons": 0.97, "toxicity": 0.2}),
    (Finding("weapons", "weapons.make", 0, 5, 0.97),),
    "The request asks how to make a weapon.",
    "balanced@1a2b3c4d",
    2.5,
)


def make_tokens(*texts: str) -> tuple[ReplyToken, ...]:
    return tuple(
        ReplyToken(i, 100 + i, text, -0.1 - i / 3, 0.7, (Candidate(100 + i, text, -0.1 - i / 3), Candidate(7, "x", -2.0)))
        for i, text in enumerate(texts)
    )


def make_turn(**changes: Any) -> Turn:
    """A finished turn; `changes` replace fields."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "id": f"01TURN{number:020d}",
        "conversation": f"01CONV{number:020d}",
        "prompt": "What is the weather like today?",
        "reply": "It is sunny.",
        "finish": "stop",
        "prompt_verdict": ALLOW,
        "output_verdict": ALLOW,
        "usage": Usage(12, 4, 3, 0.5, 0.25, 1.125, 3.5, "estimated: 5 W a core"),
        "model": MODEL,
        "sampling": Sampling(seed=2**64 - 1, temperature=0.1 + 0.2, stop=("\n\n",)),
        "system": "You are a helpful assistant.",
        "tokens": make_tokens("It", " is", " sunny."),
        "prompt_ids": (1, 2, 3, 49151),
        "created_us": 1_790_000_000_000_000 + number,
        "language": "en",
        "notices": ("2 old turns were left out.",),
    }
    return Turn(**{**values, **changes})
