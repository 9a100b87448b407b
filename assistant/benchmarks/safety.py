"""What filter and moderation cost: one message at a time, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from assistant.benchmarks.measure import summary
from assistant.settings import Settings

if TYPE_CHECKING:
    from safety.guard import Guard

SENTENCES = {
    "en": "Could you tell me how the weather will be tomorrow and what I should wear for a long walk? ",
    "zh": "请告诉我明天的天气怎么样，去公园散步应该穿什么衣服？",
}
LENGTHS = {"short": 120, "medium": 600, "long": 2400}
"""Characters."""


HOSTILE = {"a": "a" * 200_000, "ign": "ign" * 66_000, "杀": "杀" * 66_000}
TOKENS_32, TOKENS_512 = 130, 2100
"""Characters of English that make so many tokens."""
BATCH = 256


def bench(settings: Settings, rounds: int = 20) -> dict[str, Any]:
    """Milliseconds per prompt and per streamed reply, by language and length; messages per second, read together; 200 KB of hostile
    repetition. One thread.
    """
    from assistant.loading import load_guard

    began = time.perf_counter()
    guard = load_guard(settings, lambda what, fraction: None)
    out: dict[str, Any] = {"load_seconds": time.perf_counter() - began, "policy": guard.policy, "encoder": guard.complete}
    if guard.complete:
        import torch

        torch.set_num_threads(1)
    for language, sentence in SENTENCES.items():
        for name, length in LENGTHS.items():
            filtered, streamed = [], []
            for number in range(rounds):
                text = _text(sentence, length, number)
                filtered.append(_timed(lambda text=text: guard.filter_prompt(text)))  # type: ignore[misc]
                streamed.append(_timed(lambda text=text: _stream(guard, text)) / (len(text) / 4))  # type: ignore[misc]
            out[f"{language}_{name}"] = {
                "characters": length, "filter_milliseconds": summary(filtered), "moderation_milliseconds_per_token": summary(streamed),
            }  # fmt: skip
    for name, length in (("tokens_32", TOKENS_32), ("tokens_512", TOKENS_512)):
        texts = [_text(SENTENCES["en"], length, 900 + number) for number in range(rounds)]
        out[f"{name}_milliseconds"] = summary([_timed(lambda text=text: guard.filter_prompt(text)) for text in texts])  # type: ignore[misc]
    texts = [_text(SENTENCES["en" if n % 2 else "zh"], 80 if n % 2 else 30, n + 5000) for n in range(BATCH)]
    began = time.perf_counter()
    guard.prepare(texts, "prompt")
    for text in texts:
        guard.filter_prompt(text)
    out["messages_per_second"] = BATCH / (time.perf_counter() - began)
    out["hostile_200_kb_milliseconds"] = {
        name: _timed(lambda text=text: guard.filter_prompt(text))  # type: ignore[misc]
        for name, text in HOSTILE.items()
    }
    return out


def _stream(guard: Guard, text: str) -> None:
    """The text as a reply, in pieces of about a token."""
    moderator = guard.moderator()
    for i in range(0, len(text), 4):
        moderator.feed(text[i : i + 4])
    moderator.finish()


def _text(sentence: str, length: int, number: int) -> str:
    """A text of this length that was not seen before: what was read lately is remembered."""
    return (f"{number} " + sentence * (length // len(sentence) + 1))[:length]


def _timed(deed: Callable[[], object]) -> float:
    began = time.perf_counter()
    deed()
    return (time.perf_counter() - began) * 1e3
