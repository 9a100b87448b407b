"""The four-stage strip as a value: what each layer has decided about one turn so far, and how that reads in one line.

prompt filter → generation → output moderation → attribution
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from textual.content import Content

from assistant.events import Event, Finished, Moderated, PromptChecked, Token, Withdrawn
from assistant.tui.format import FINISH_MARKS, MARKS, category
from assistant.tui.text import say
from assistant.turn import Finish, Turn
from safety.verdict import Action, Verdict

STYLES = {
    Action.ALLOW: "$text-success",
    Action.CAUTION: "$text-warning",
    Action.REDACT: "$text-accent",
    Action.BLOCK: "$text-error",
}
_IDLE, _BUSY = "$foreground 62%", "$text-accent"


@dataclass(frozen=True, slots=True)
class Stages:
    """Where one turn is in the pipeline."""

    running: bool = False
    prompt: Verdict | None = None
    tokens: int = 0
    finish: Finish | None = None
    output: Verdict | None = None
    doubt: float = 0.0
    """The sum of what the model's probe said of the tokens, as logits."""
    doubted: int = 0
    """Of how many tokens it said something."""
    attribution: str = ""
    """The method, once an explanation is in the ledger."""

    @classmethod
    def of(cls, turn: Turn, attribution: str = "") -> Stages:
        """The stages of a logged turn."""
        tokens = turn.usage.reply_tokens or len(turn.tokens)
        doubts = [_logit(token.risk) for token in turn.tokens if token.risk is not None]
        return cls(False, turn.prompt_verdict, tokens, turn.finish, turn.output_verdict, sum(doubts), len(doubts), attribution)

    @property
    def risk(self) -> float | None:
        """How risky the reply looks to the model's probe so far, from the mean over its tokens: single ones are noisy. None without a
        probe."""
        return 1 / (1 + math.exp(-self.doubt / self.doubted)) if self.doubted else None

    def after(self, event: Event) -> Stages:
        """The stages once `event` has happened."""
        match event:
            case PromptChecked():
                return replace(self, running=True, prompt=event.verdict)
            case Token():
                risk, more = event.token.risk, replace(self, tokens=self.tokens + 1)
                return more if risk is None else replace(more, doubt=self.doubt + _logit(risk), doubted=self.doubted + 1)
            case Moderated() | Withdrawn():
                return replace(self, output=event.verdict)
            case Finished():
                return Stages.of(event.turn)
            case _:
                return self

    def line(self, width: int = 120) -> Content:
        """Sign, word and score of each stage; where that does not fit `width` cells, without categories and counts."""
        long = self._line(short=False)
        return long if long.cell_length <= width else self._line(short=True)

    def _line(self, short: bool) -> Content:
        blocked = self.finish == "blocked_prompt"
        parts = [
            _verdict(say("stage.prompt"), self.prompt, self.running and self.prompt is None, short),
            self._generation(short, blocked),
            _verdict(say("stage.output"), self.output, self.running and self.tokens > 0 and self.output is None, short),
            self._attribution(short),
        ]
        return Content.styled(" → " if short else "  →  ", _IDLE).join(parts)

    def _generation(self, short: bool, blocked: bool) -> Content:
        word = say("stage.generate")
        if self.running and self.finish is None and self.prompt is not None:
            what = self._count(short) if self.tokens else say("stage.reading")
            return Content.styled(f"… {word} {what}", _BUSY)
        if self.finish is None or blocked:
            return Content.styled(f"{'—' if blocked else '·'} {word}", _IDLE)
        style = {"stop": "$text-success", "error": "$text-error"}.get(self.finish, "$text-warning")
        count = "" if short else f" {self._count(short)}"
        named = "" if self.finish in ("stop", "blocked_output") else f" {say('finish.' + self.finish)}"
        mark = "✓" if self.finish == "blocked_output" else FINISH_MARKS[self.finish]
        return Content.styled(f"{mark} {word}{count}{named}", style)

    def _count(self, short: bool) -> str:
        count = say("stage.tokens", count=self.tokens)
        return count if short or self.risk is None else f"{count} {say('stage.risk', risk=f'{self.risk:.2f}')}"

    def _attribution(self, short: bool) -> Content:
        word = say("stage.attribution")
        if self.attribution:
            return Content.styled(f"✓ {word}", "$text-success")
        can = self.finish not in (None, "blocked_prompt", "blocked_output") and self.tokens > 0
        return Content.styled(f"· {say('stage.inspect')}" if can and not short else f"· {word}", _IDLE)


def _verdict(word: str, verdict: Verdict | None, busy: bool, short: bool) -> Content:
    if verdict is None:
        return Content.styled(f"… {word}" if busy else f"· {word}", _BUSY if busy else _IDLE)
    named = ""
    if verdict.action is not Action.ALLOW and not short:
        named = f" {say('action.' + verdict.action.value)} {category(verdict.category)}".rstrip()
    return Content.styled(f"{MARKS[verdict.action]} {word}{named} {verdict.score:.2f}", STYLES[verdict.action])


def _logit(risk: float) -> float:
    """The logit of a risk, which is known to four digits."""
    risk = min(max(risk, 5e-5), 1 - 5e-5)
    return math.log(risk / (1 - risk))
