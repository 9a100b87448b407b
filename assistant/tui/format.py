"""Numbers, times and names as the interface writes them. Pure: values in, words of the language in force out."""

from __future__ import annotations

import math
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.turn import Turn
from safety.verdict import Action, Verdict

MARKS = {Action.ALLOW: "✓", Action.CAUTION: "!", Action.REDACT: "~", Action.BLOCK: "✗"}
"""Each action has a sign of its own, so that colour is never needed to tell them apart."""

FINISH_MARKS = {
    "stop": "✓", "length": "…", "stopped": "■", "blocked_prompt": "✗", "blocked_output": "✗", "error": "✗",
    "interrupted": "■",
}  # fmt: skip


def when(microseconds: int, now: datetime | None = None) -> str:
    """A moment, as short as it stays clear: the time today, the day this year, else the date."""
    moment = datetime.fromtimestamp(microseconds / 1e6)
    now = now or datetime.now()
    if moment.date() == now.date():
        return f"{moment:%H:%M}"
    if moment.year == now.year:
        return say("format.day", day=moment.day, month=moment.month, month_name=say(f"month.{moment.month}"))
    return f"{moment:%Y-%m-%d}"


def moment(microseconds: int) -> str:
    """Date and time to the second."""
    return f"{datetime.fromtimestamp(microseconds / 1e6):%Y-%m-%d %H:%M:%S}"


def seconds(value: float) -> str:
    """A duration with a unit that fits it."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 60 else f"{int(value) // 60}:{int(value) % 60:02d} min"


def category(name: str) -> str:
    """A safety category in the language in force; unknown ones keep their name."""
    return say.get(f"category.{name}", "") or one_line(name.replace("_", " "), 40)


def verdict_words(verdict: Verdict) -> str:
    """Sign, word and score of a verdict."""
    word = say(f"action.{verdict.action.value}")
    named = f" {category(verdict.category)}" if verdict.action is not Action.ALLOW and verdict.category else ""
    return f"{MARKS[verdict.action]} {word}{named} {verdict.score:.2f}"


def mean_probability(turn: Turn) -> float | None:
    """The geometric mean of the probabilities of the reply's tokens; None without tokens, or where a server did not tell them."""
    mean = sum(token.logprob for token in turn.tokens) / len(turn.tokens) if turn.tokens else math.nan
    return None if math.isnan(mean) else math.exp(mean)


def footer(turn: Turn, position: tuple[int, int] = (1, 1)) -> str:
    """How a reply ended, which of how many siblings it is, what it cost and how sure the model was, in one line."""
    usage, parts = turn.usage, [f"{FINISH_MARKS[turn.finish]} {say('finish.' + turn.finish)}"]
    if position[1] > 1:
        parts.append(f"‹ {position[0]}/{position[1]} ›")
    if usage.reply_tokens:
        parts.append(say("footer.tokens", count=usage.reply_tokens))
        if usage.decode_seconds > 0:
            parts.append(say("footer.speed", speed=f"{usage.tokens_per_second:.1f}"))
        if usage.joules is not None:
            about = "~" if usage.energy_source.startswith("estimated") else ""
            parts.append(say("footer.energy", joules=f"{about}{usage.joules / usage.reply_tokens:.2g}"))
        if (probability := mean_probability(turn)) is not None:
            parts.append(say("footer.probability", probability=f"{probability:.2f}"))
    return " · ".join(parts)


def shortened(text: str, cells: int) -> str:
    """`text` in at most `cells` terminal cells, with … where it was cut."""
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(0, cells - 1)).rstrip() + "…"


def bar(fraction: float, width: int) -> str:
    """A bar of block characters that is readable without colour."""
    filled = round(max(0.0, min(1.0, fraction)) * width)
    return "█" * filled + "░" * (width - filled)
