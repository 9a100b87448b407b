"""What filter and moderation cost: one message at a time, on one thread."""

from __future__ import annotations

import time
from typing import Any

from assistant.benchmarks.measure import summary
from assistant.settings import Settings

SENTENCES = {
    "en": "Could you tell me how the weather will be tomorrow and what I should wear for a long walk? ",
    "zh": "请告诉我明天的天气怎么样，去公园散步应该穿什么衣服？",
}
LENGTHS = {"short": 120, "medium": 600, "long": 2400}
"""Characters."""


def bench(settings: Settings, rounds: int = 20) -> dict[str, Any]:
    """Milliseconds per prompt and per streamed reply, by language and length; messages per second for short prompts."""
    from assistant.loading import load_guard

    began = time.perf_counter()
    guard = load_guard(settings, lambda what, fraction: None)
    out: dict[str, Any] = {"load_seconds": time.perf_counter() - began, "policy": guard.policy}
    for language, sentence in SENTENCES.items():
        for name, length in LENGTHS.items():
            text = (sentence * (length // len(sentence) + 1))[:length]
            filtered, streamed = [], []
            for _ in range(rounds):
                began = time.perf_counter()
                guard.filter_prompt(text)
                filtered.append((time.perf_counter() - began) * 1e3)
                began = time.perf_counter()
                moderator = guard.moderator()
                pieces = [text[i : i + 4] for i in range(0, len(text), 4)]  # about a token each
                for piece in pieces:
                    moderator.feed(piece)
                moderator.finish()
                streamed.append((time.perf_counter() - began) * 1e3 / len(pieces))
            out[f"{language}_{name}"] = {
                "characters": length, "filter_milliseconds": summary(filtered), "moderation_milliseconds_per_token": summary(streamed),
            }  # fmt: skip
    short = out["en_short"]["filter_milliseconds"]["median"]
    out["messages_per_second"] = 1000 / short
    return out
