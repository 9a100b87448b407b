"""One turn on the screen: the prompt, what was decided about it, the reply, and what it cost.

Shows a logged turn, or a turn in the making that is told of every event. Focus on it is the message cursor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from assistant.events import Event, Finished, Moderated, Notice, PromptChecked, Text, Withdrawn
from assistant.tui.commands import bindings
from assistant.tui.format import footer
from assistant.tui.rendering import marked, safe
from assistant.tui.stages import Stages
from assistant.tui.text import say
from assistant.tui.thresholds import limits
from assistant.tui.widgets.card import VerdictCard, card_body, card_title
from assistant.tui.widgets.reply import Reply
from assistant.tui.widgets.settled import Uniform
from assistant.tui.withheld import may_reveal
from assistant.turn import Turn
from safety.verdict import Action, Verdict

SHORT = 2000
"""A prompt longer than this is folded until it is asked for."""


class TurnView(Uniform, Vertical, can_focus=True):
    """One prompt and its reply."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("turn"), ("escape", "screen.to_prompt", "")]

    def __init__(self, turn: Turn | None = None, prompt: str = "", position: tuple[int, int] = (1, 1)) -> None:
        super().__init__(classes="turn")
        self.turn = turn
        self.prompt = turn.prompt if turn else prompt
        self.stages = Stages.of(turn) if turn else Stages(running=True)
        self.position = position
        self._expanded = False
        self._said = ""
        self._resting: list[Widget] = []
        self._prompt = Static(self._prompt_content(), classes="prompt-text", markup=False)
        self._reply = Reply(turn.reply if turn else None)
        self._footer = Static(self._footer_content(), classes="turn-footer", markup=False)

    def compose(self) -> ComposeResult:
        yield self._prompt
        if self.turn is not None:
            yield from self._cards(self.turn.prompt_verdict, "prompt")
            yield from (_notice(text) for text in self.turn.notices)
        yield self._reply
        if self.turn is not None and self.turn.output_verdict is not None:
            yield from self._cards(self.turn.output_verdict, "reply")
        yield self._footer

    def on_mount(self) -> None:
        self._show_reply(bool(self._reply.text.strip()))
        if self.turn is not None:
            self.set_class(self.turn.finish in ("blocked_prompt", "blocked_output"), "-withdrawn")

    @property
    def reply_text(self) -> str:
        """The reply as it is shown."""
        return self.turn.reply if self.turn else self._reply.text

    async def handle(self, event: Event) -> None:
        """Show what has happened."""
        self.stages = self.stages.after(event)
        match event:
            case PromptChecked():
                self.prompt = event.prompt
                self._prompt.update(self._prompt_content(event.verdict))
                await self.mount_all(self._cards(event.verdict, "prompt"), before=self._reply)
            case Notice():
                await self.mount(_notice(event.text), before=self._reply)
            case Text():
                self._show_reply(True)
                await self._reply.feed(event.text)
            case Moderated() if event.final or event.verdict.action is not Action.ALLOW:
                await self._show_output(event.verdict)
            case Withdrawn():
                self.add_class("-withdrawn")
                await self._reply.finish(event.refusal)
                self._show_reply(True)
                await self._show_output(event.verdict)
            case Finished():
                await self._finish(event.turn)
            case _:
                pass
        self._say_footer()

    async def _finish(self, turn: Turn) -> None:
        self.turn = turn
        self.prompt = turn.prompt
        self.set_class(turn.finish in ("blocked_prompt", "blocked_output"), "-withdrawn")
        await self._reply.finish(turn.reply)
        self._show_reply(bool(turn.reply.strip()))

    async def reveal(self, text: str) -> None:
        """Show the words that were withdrawn in place of the refusal."""
        await self._reply.finish(text)
        self._show_reply(True)

    def place(self, position: tuple[int, int]) -> None:
        """Say which of how many siblings this is."""
        self.position = position
        self._say_footer()

    def rest(self) -> None:
        """Keep the height and leave the layout. By inline styles: another class would have every part look up its style sheet again."""
        if not self._resting:
            self.styles.height = self.virtual_region.height
            self._resting = [child for child in self.children if child.display]
            for child in self._resting:
                child.display = False

    def wake(self) -> None:
        """Take part in the layout again."""
        if self._resting:
            self.styles.height = None
            for child in self._resting:
                child.display = True
            self._resting = []

    def toggle_expanded(self) -> None:
        """Fold or unfold a long prompt."""
        self._expanded = not self._expanded
        self._prompt.update(self._prompt_content())

    def retranslate(self) -> None:
        """Say everything again in the language in force."""
        self._say_footer()
        for card in self.query(VerdictCard):
            card.remove()
        if self.turn is not None:
            self.mount_all(self._cards(self.turn.prompt_verdict, "prompt"), before=self._reply)
            if self.turn.output_verdict is not None:
                self.mount_all(self._cards(self.turn.output_verdict, "reply"), before=self._footer)

    async def _show_output(self, verdict: Verdict) -> None:
        shown = list(self.query(VerdictCard).filter(".of-reply"))
        if verdict.action is Action.ALLOW:
            for card in shown:
                await card.remove()
        elif shown:
            shown[0].border_title = card_title(verdict, "reply")
            shown[0].set_classes(f"card of-reply -{verdict.action.value}")
            shown[0].update(card_body(verdict, self._advice(verdict, "reply"), self._limits(verdict, "reply")))
        else:
            await self.mount_all(self._cards(verdict, "reply"), before=self._footer)

    def _cards(self, verdict: Verdict, where: str) -> list[VerdictCard]:
        if verdict.action is Action.ALLOW:
            return []
        card = VerdictCard(verdict, where, self._advice(verdict, where), self._limits(verdict, where))
        card.add_class(f"of-{where}")
        return [card]

    def _limits(self, verdict: Verdict, where: str) -> Mapping[str, float]:
        """The thresholds in force, as long as the verdict was given under them."""
        guard = getattr(getattr(self.app, "session", None), "guard", None)
        if not verdict.policy or getattr(guard, "policy", None) != verdict.policy:
            return {}
        return limits(verdict, "prompt" if where == "prompt" else "response")

    def _advice(self, verdict: Verdict, where: str) -> str:
        advice = say(f"advice.{where}_{verdict.action.value}")
        if where == "reply" and verdict.action is Action.BLOCK and may_reveal(verdict):
            advice += " · " + say("advice.reveal")
        return advice

    def _prompt_content(self, verdict: Verdict | None = None) -> Content:
        verdict = verdict or (self.turn.prompt_verdict if self.turn else None)
        text = self.prompt
        if self.turn is not None and "prompt" in self.turn.erased:
            return Content.styled(say("turn.erased"), "italic $foreground 62%")
        more = Content("")
        if len(text) > SHORT and not self._expanded:
            more = Content.styled("\n" + say("turn.folded", count=len(text) - SHORT), "$foreground 62% italic")
            text = text[:SHORT]
        findings = verdict.findings if verdict and verdict.action is not Action.REDACT else ()
        return Content.assemble(marked(text, findings), more)

    def _show_reply(self, visible: bool) -> None:
        # by class, not by inline style: that is how a resting turn hides all its parts
        self._reply.set_class(not visible, "-hidden")

    def _say_footer(self) -> None:
        content = self._footer_content()
        if content.plain != self._said:
            self._said = content.plain
            self._footer.update(content, layout=False)

    def _footer_content(self) -> Content:
        if self.turn is None:
            waiting = "turn.waiting" if self.stages.prompt is None else "turn.reading"
            return Content.styled(say(waiting) if not self.stages.tokens else say("turn.writing"), "$foreground 62%")
        return Content.styled(footer(self.turn, self.position), "$foreground 62%")


def _notice(text: str) -> Static:
    return Static(Content.assemble(Content("· "), safe(text)), classes="notice", markup=False)
