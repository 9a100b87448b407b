"""What the guard says: reasons, refusals, help lines, in Chinese and English, all from data/safety/texts.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from typing import Any

from safety.resources import data_path
from safety.verdict import Action, Verdict


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(data_path("safety", "texts.toml").read_text("utf-8"))


def reason(action: Action, role: str, category: str, parts: Sequence[str], language: str) -> str:
    """One sentence for a verdict; empty when there is nothing to say."""
    texts = _texts()[language]
    if action is Action.ALLOW:
        return ""
    if action is Action.REDACT:
        listed = texts["separator"].join(texts["parts"][kind] for kind in dict.fromkeys(parts))
        return str(texts[f"redacted_{role}"]).format(parts=listed)
    kind = "blocked" if action is Action.BLOCK else "caution"
    return str(texts[f"{kind}_{role}"]).format(category=texts["categories"][category])


def notice(name: str, language: str) -> str:
    """A notice about the guard itself; `{problem}` in it is left to the caller."""
    return str(_texts()["zh" if language == "zh" else "en"]["notices"][name])


def too_long(limit: int, language: str) -> str:
    """The sentence for a text that is longer than can be checked."""
    return str(_texts()[language]["too_long"]).format(limit=f"{limit:,}")


def refusal(verdict: Verdict, category: str, language: str) -> str:
    """What is shown instead of a text that was blocked for `category`: why, and what the person can do."""
    texts = _texts()["zh" if language == "zh" else "en"]
    if any(finding.rule == "length" for finding in verdict.findings):
        return str(texts["refusals"]["too_long"])
    template = texts["refusals"].get(category, texts["refusals"]["default"])
    named = texts["categories"].get(category, category)
    return str(template).format(category=named, lines=help_lines(language))


def all_refusals() -> list[str]:
    """Every refusal that can be shown, for the test that moderation lets all of them pass."""
    every = []
    for language in ("zh", "en"):
        for category in _texts()[language]["categories"]:
            every.append(refusal(Verdict(Action.BLOCK), category, language))
    return every


def help_lines(language: str) -> str:
    """The crisis lines, one a line, nearest regions of the language first."""
    data = tomllib.loads(data_path("safety", "help_lines.toml").read_text("utf-8"))
    language = "zh" if language == "zh" else "en"
    return "\n".join(f"• {data[region][language]}" for region in data["order"][language])
