"""A heat-map over words: colour for those who see it, weight, lines and numbers for those who do not.

Words that spoke for the choice are bold on a warm ground, words against it underlined on a cool one; ¹ ² ³ mark the
three strongest. Pure: scores in, Textual content out.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.color import Color
from textual.content import Content
from textual.style import Style

from assistant.tui.sanitize import sanitize
from assistant.tui.tokens import Unit

SUPERSCRIPTS = ("¹", "²", "³")
FOR, AGAINST = Color.parse("#d9822b"), Color.parse("#3f7fd0")
_NOTICEABLE = 0.1  # of the strongest; anything weaker is left plain


def strongest(scores: Sequence[float], count: int) -> list[int]:
    """The positions of the `count` scores that are furthest from zero, strongest first; zeros are left out."""
    order = sorted((i for i, s in enumerate(scores) if s), key=lambda i: (-abs(scores[i]), i))
    return order[:count]


def shares(scores: Sequence[float]) -> list[float]:
    """Each score's part of the sum of all magnitudes."""
    total = sum(abs(s) for s in scores)
    return [abs(s) / total if total else 0.0 for s in scores]


def heat_map(units: Sequence[Unit], scores: Sequence[float], ground: Color, cursor: int | None = None) -> Content:
    """The words with their heat; `format` units are dim, the one under the `cursor` is reversed.

    A click carries its unit.
    """
    peak = max((abs(s) for s in scores), default=0.0)
    top = strongest(scores, len(SUPERSCRIPTS))
    parts: list[Content] = []
    for index, (unit, score) in enumerate(zip(units, scores, strict=True)):
        weight = abs(score) / peak if peak else 0.0
        style = Style.from_meta({"unit": index})
        if unit.role == "format":
            style += Style(dim=True)
        elif weight >= _NOTICEABLE:
            blended = ground.blend(FOR if score > 0 else AGAINST, 0.15 + 0.6 * weight)
            style += Style(
                background=blended,
                foreground=blended.get_contrast_text(1.0),
                bold=score > 0 or None,
                underline=score < 0 or None,
            )
        if index == cursor:
            style += Style(reverse=True)
        mark = SUPERSCRIPTS[top.index(index)] if index in top else ""
        shown = visible(unit.text)
        word = shown.rstrip()
        parts.append(Content.styled((word + mark + shown[len(word) :]) if word else shown + mark, style))
    return Content("").join(parts)


def visible(text: str) -> str:
    """A token's text with its line breaks shown, and still broken after them."""
    shown = sanitize(text).replace("\t", "⇥")
    return shown.replace("\n", "⏎\n") if shown else "∅"
