"""What other layers say to the person, in the language of the interface.

Errors and progress are English sentences made where they happen, by code that knows nothing of screens. Here they are said in Chinese:
the sentence is found by its words (`data/ui/messages.zh.toml`), the values in it are kept. A sentence that is not there is shown as it is.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache

from assistant.tui.text import say
from safety.resources import data_path

_DEPTH = 3  # a value may be a sentence itself


def told(text: object) -> str:
    """`text`, usually an exception, in the language in force."""
    return _told(str(text), _DEPTH) if say.language == "zh" else str(text)


def _told(text: str, depth: int) -> str:
    if depth:
        for pattern, sentence in messages():
            if found := pattern.fullmatch(text):
                return sentence.format(*(_told(value, depth - 1) for value in found.groups()))
    return text


@cache
def messages() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Every English sentence as a pattern with its Chinese one, those with the most words of their own first."""
    table = tomllib.loads(data_path("ui", "messages.zh.toml").read_text("utf-8"))
    by_words = sorted(table.items(), key=lambda item: -len(item[0].replace("{}", "")))
    return tuple((re.compile("(.+?)".join(map(re.escape, english.split("{}"))), re.DOTALL), chinese) for english, chinese in by_words)
