"""A safety decision in a frame:
category, score, why in one sentence, and what one can do. Shown for all but `allow`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from textual.content import Content
from textual.widgets import Static

from assistant.tui.format import MARKS, bar, category
from assistant.tui.rendering import safe
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from safety.verdict import Action, Verdict

_NONE: Mapping[str, float] = MappingProxyType({})


class VerdictCard(Static):
    """What the guard decided about a prompt or a reply."""

    def __init__(self, verdict: Verdict, where: str, advice: str = "", limits: Mapping[str, float] = _NONE) -> None:
        super().__init__(card_body(verdict, advice, limits), classes=f"card -{verdict.action.value}", markup=False)
        self.border_title = card_title(verdict, where)


def card_title(verdict: Verdict, where: str) -> Content:
    """Sign, word, where it happened, category."""
    words = [f"{MARKS[verdict.action]} {say('card.' + verdict.action.value)}", say(f"card.in_{where}")]
    if verdict.category:
        words.append(category(verdict.category))
    return Content(" · ".join(words))


def card_body(verdict: Verdict, advice: str = "", limits: Mapping[str, float] = _NONE) -> Content:
    """The reason, help where the category has some, the strongest categories as bars, the rules that spoke, the advice."""
    lines: list[Content] = []
    if verdict.reason:
        lines.append(safe(verdict.reason.strip()))
    if help_text := say.get(f"advice.{verdict.category}", ""):
        lines.append(Content.styled(help_text, "bold"))
    if verdict.action is not Action.REDACT:
        scored = sorted(verdict.categories.items(), key=lambda item: -item[1])[:3]
        for name, score in scored:
            if score >= 0.05:
                lines.append(
                    Content.assemble(
                        Content.styled(bar(score, 10), "$foreground 45%"), f" {_against(score, limits.get(name))} {category(name)}"
                    )
                )
    rules = list(dict.fromkeys(one_line(f.rule, 30) for f in verdict.findings))[:4]
    source = [say("card.rules", rules=", ".join(rules))] if rules else []
    if verdict.policy:
        source.append(say("card.policy", policy=one_line(verdict.policy, 40)))
    if source:
        lines.append(Content.styled(" · ".join(source), "$foreground 62%"))
    if advice:
        lines.append(safe(advice, "$foreground 62%"))
    return Content("\n").join(lines)


def _against(score: float, limit: float | None) -> str:
    """A score, and the threshold it reached or not."""
    return f"{score:.2f}" if limit is None else f"{score:.2f} {'≥' if score >= limit else '<'} {limit:.2f}"
