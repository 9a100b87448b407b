"""The texts of the inspector's lower half: strongest words, candidates, confidence, the quality card. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from textual.content import Content

from assistant.tui.format import bar, seconds, shortened
from assistant.tui.heat import shares, strongest, visible
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.tui.tokens import Unit
from assistant.turn import Candidate, ReplyToken, Turn

_LEVELS = "▁▂▃▄▅▆▇█"
_DIM = "$foreground 62%"


def word_table(units: Sequence[Unit], scores: Sequence[float], rows: int, width: int) -> Content:
    """The strongest words: sign and size of their effect, and their share of all effects."""
    part = shares(scores)
    room = max(6, width - 24)
    numbers = f"{say('inspector.column_effect'):>7} {say('inspector.column_share'):>6}"
    lines = [Content.styled(_cells(say("inspector.column_word"), room) + numbers, _DIM)]
    for index in strongest(scores, rows):
        word = _cells(_inline(units[index].text), room)
        style = "bold" if scores[index] > 0 else "underline"
        blank = " " * (len(word) - len(word.rstrip()))
        numbers = f"{blank}{scores[index]:+7.2f} {part[index]:6.0%} "
        gauge = Content.styled(bar(part[index] / max(part), 6), "$primary" if scores[index] > 0 else "$secondary")
        lines.append(Content.assemble(Content.styled(word.rstrip(), style), numbers, gauge))
    return Content("\n").join(lines)


def candidate_table(token: ReplyToken | None, rows: int, width: int, against: int | None = None) -> Content:
    """What the model could have written instead, with probabilities; the chosen one is marked, and the one it is held `against`."""
    if token is None or not token.candidates:
        return Content.styled(say("inspector.no_candidates"), _DIM)
    room = max(6, width - 18)
    lines = []
    for candidate in sorted(token.candidates, key=lambda c: -c.logprob)[:rows]:
        mark = "◇" if candidate.id == against else "●" if _same(candidate, token) or candidate.text == token.text else " "
        lines.append(_candidate(mark, candidate, room))
    return Content("\n").join(lines)


def _candidate(mark: str, candidate: Candidate, room: int) -> Content:
    probability = math.exp(candidate.logprob)
    line = f"{mark} {_cells(_inline(candidate.text), room)}{probability:6.3f} "
    return Content.assemble(Content.styled(line, "bold" if mark == "●" else ""), Content.styled(bar(probability, 6), "$primary"))


def others(token: ReplyToken | None) -> list[Candidate]:
    """What could have stood there instead, the likeliest first."""
    if token is None:
        return []
    return sorted((c for c in token.candidates if not _same(c, token)), key=lambda c: -c.logprob)


def _same(candidate: Candidate, token: ReplyToken) -> bool:
    """Whether the candidate is the token that was chosen; a served model tells texts, no ids."""
    return candidate.id == token.id if token.id >= 0 else candidate.text == token.text


def ablation_table(candidates: Sequence[Candidate], chosen: int, rows: int, width: int) -> Content:
    """What the model would have written without a part of the prompt."""
    room = max(6, width - 18)
    return Content("\n").join([_candidate("●" if c.id == chosen else " ", c, room) for c in candidates[:rows]])


def ablation_line(removed: str, before: float, after: float) -> str:
    """What leaving out a part did to the picked token, in probabilities and in nats."""
    word = one_line(removed.strip() or removed, 30)
    return say(
        "inspector.ablated", word=word, before=f"{math.exp(before):.3f}", after=f"{math.exp(after):.3f}", change=f"{after - before:+.2f}"
    )


def confidence_line(turn: Turn, units: Sequence[Unit], picked: int | None, width: int) -> Content:
    """One block a unit, as high as the unit was probable; the picked one stays in view."""
    parts = []
    first = max(0, min((picked or 0) - width // 2, len(units) - width))
    for index, unit in enumerate(units[first : first + width], first):
        probability = math.exp(sum(turn.tokens[i].logprob for i in unit.indices) / len(unit.indices))
        block = " " if math.isnan(probability) else _LEVELS[min(7, int(probability * 8))]
        style = "reverse" if index == picked else "$text-success" if probability > 0.5 else "$text-warning"
        parts.append(Content.styled(block, style))
    return Content("").join(parts)


_CARD = (
    "grade", "completeness_error", "deletion_drop", "deletion_random_mean", "deletion_random_better",
    "insertion_rise", "insertion_random_mean", "stability", "format_share",
    "generator_gap_mean", "steps", "features", "forwards", "seconds", "joules",
)  # fmt: skip


def quality_line(quality: Mapping[str, Any], method: str) -> Content:
    """The quality card: how far the explanation can be trusted first, how it was made after."""
    parts = [Content(say.get(f"inspector.method_{method}", one_line(method, 30)))]
    for name in _CARD:
        if quality.get(name) is not None:
            value = _value(name, quality[name])
            style = {"supported": "$text-success", "weak": "$text-warning", "not supported": "$text-error"}.get(str(quality[name]), "")
            parts.append(Content.styled(f"{say('quality.' + name)} {value}", style))
    return Content.styled(" · ", "$foreground 35%").join(parts).stylize_before(_DIM)


def _value(name: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return seconds(value) if name == "seconds" else f"{value:.3g}"
    return say.get(f"quality.{value}", one_line(str(value), 40))


def _inline(text: str) -> str:
    return visible(text).replace("\n", "").replace(" ", "␣") if not text.strip() else visible(text).replace("\n", "")


def _cells(text: str, width: int) -> str:
    text = shortened(text, width - 1)
    return text + " " * (width - cell_len(text))
