"""The inspector: pick a word of the reply and see which words of the conversation it came from, why it stands there rather than another,
and what would have stood there without one of them.

Explanations that are in the ledger are shown at once; others are computed in the background and can be cancelled.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import on, work
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content

from assistant.errors import PellucidError
from assistant.tui import inspection
from assistant.tui.commands import key_name
from assistant.tui.explanation import (
    METHODS,
    Ablated,
    Explained,
    ExplainFailed,
    ExplainProgress,
    Explanation,
    ablate,
)
from assistant.tui.format import bar
from assistant.tui.sanitize import one_line
from assistant.tui.screen_keys import BOTH_WAYS, of_screen, screen_bindings
from assistant.tui.screens.inspector.view import InspectorView
from assistant.tui.text import say
from assistant.tui.tokens import LEVELS, units
from assistant.tui.told import told
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.token_view import TokenView


class InspectorScreen(InspectorView):
    """Explains one logged turn; answers the method of the last explanation shown."""

    BINDINGS: ClassVar[list[BindingType]] = [*screen_bindings("inspector")]

    def on_mount(self) -> None:
        for id, key in (("reply", "reply"), ("heat", "heat"), ("words", "words"), ("candidates", "candidates")):
            self.query_one(f"#{id}-box").border_title = Content(say(f"inspector.{key}"))
        self._show_keys()
        self._say(say("inspector.loading"))
        self._read()

    def _show_keys(self) -> None:
        """What the keys do now: the one that leaves stops what is being computed first."""
        own = getattr(self.app, "own_keys", {})
        names = {key.id: key_name(keys) for key, keys in of_screen("inspector", own)}
        both = {id: f"{names[back]} {names[id]}" for id, back in BOTH_WAYS.items()}
        words = {"inspector_back": say("inspector.keys_stop")} if self._explanation is not None else {}
        shown = [(both.get(key.id, names[key.id]), words.get(key.id, key.words)) for key, _ in of_screen("inspector", own) if key.shown]
        self.query_one("#keys", KeyBar).show(shown)

    def on_unmount(self) -> None:
        if self._explanation:
            self._explanation.cancel()

    @work(exclusive=True)
    async def _read(self) -> None:
        ledger = self._session.ledger
        try:
            self._turn = await asyncio.to_thread(ledger.turn, self._turn_id)
            self._kept = list(await asyncio.to_thread(ledger.attributions, self._turn_id))
            if not self.query(TokenView):  # read too late: the screen has been left
                return
        except PellucidError as error:
            self._say(told(error), "$text-error")
            return
        self._reply = units([token.text for token in self._turn.tokens])
        if not self._reply:
            self._say(say("inspector.no_tokens"), "$text-warning")
            return
        self._picked = 0 if len(self._reply) == 1 else None
        self._draw()
        if self._found() is None:
            self.action_compute()

    # -- computing ---------------------------------------------------------------------------------------------------

    def action_compute(self) -> None:
        """Explain what is picked, unless that is known or under way."""
        if self._turn is None or not self._reply or self._explanation is not None or self._found() is not None:
            return
        self._explanation = Explanation(self._session, self._turn_id, self._method, self._token, self.post_message, self._against)
        self._show_keys()
        self._draw()

    @on(ExplainProgress)
    def _progress(self, event: ExplainProgress) -> None:
        gauge = "" if event.fraction is None else f" {bar(event.fraction, 20)} {event.fraction:.0%}"
        self._say(say("inspector.computing", what=one_line(told(event.what), 40)) + gauge, "$text-accent")

    @on(Explained)
    def _explained(self, event: Explained) -> None:
        self._ended()
        self._kept.append(event.attribution)
        self._draw()

    @on(ExplainFailed)
    def _failed(self, event: ExplainFailed) -> None:
        self._ended()
        if event.cancelled:
            self._say(say("inspector.cancelled"), "$text-warning")
        else:
            self._say(one_line(told(event.error) or type(event.error).__name__, 300), "$text-error")

    def _ended(self) -> None:
        self._explanation = None
        self._show_keys()

    def action_rather(self) -> None:
        """Hold the picked token against the next of the other candidates, at last against none."""
        token = None if self._turn is None or self._token is None else self._turn.tokens[self._token]
        others = [candidate.id for candidate in inspection.others(token)]
        if not others:
            self._say(say("inspector.pick_first"), "$text-warning")
            return
        at = others.index(self._against) + 1 if self._against in others else 0
        self._against = others[at] if at < len(others) else None
        self._draw()

    def action_ablate(self) -> None:
        """Leave the picked word of the conversation out and run the model once more."""
        found = self._found()
        if self._token is None or self._input is None or found is None or not self._shown[self._input].indices:
            self._say(say("inspector.pick_both"), "$text-warning")
            return
        self._say(say("inspector.computing", what=say("inspector.keys_ablate")), "$text-accent")
        ablate(self._session, self._turn_id, found[0].input_tokens, self._shown[self._input].indices, self._token, self.post_message)

    @on(Ablated)
    def _show_ablated(self, event: Ablated) -> None:
        self._ablated = event.found
        self._draw()

    # -- picking -----------------------------------------------------------------------------------------------------

    def action_pick(self, step: int) -> None:
        """Pick the next word."""
        if self._reply:
            at = (-1 if step > 0 else len(self._reply)) if self._picked is None else self._picked
            self._pick(max(0, min(at + step, len(self._reply) - 1)))

    def _pick(self, unit: int | None) -> None:
        self._picked, self._against, self._ablated = unit, None, None
        self._draw()

    def action_pick_input(self, step: int) -> None:
        """Pick the next word of the conversation."""
        real = [i for i, unit in enumerate(self._shown) if unit.indices]
        if real:
            at = real.index(self._input) + step if self._input in real else 0 if step > 0 else len(real) - 1
            self._input, self._ablated = real[max(0, min(at, len(real) - 1))], None
            self._draw()

    def action_pick_first(self) -> None:
        """Pick the first word."""
        self._pick(0 if self._reply else None)

    def action_pick_last(self) -> None:
        """Pick the last word."""
        self._pick(len(self._reply) - 1 if self._reply else None)

    def action_whole(self) -> None:
        """Look at the whole reply."""
        self._pick(None)

    def action_method(self) -> None:
        """Switch to the next method."""
        self._method = METHODS[(METHODS.index(self._method) + 1) % len(METHODS)]
        self._draw()

    def action_level(self) -> None:
        """Look at larger or smaller pieces of the conversation."""
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._input = self._ablated = None
        self._draw()

    def action_scroll_heat(self, step: int) -> None:
        """Scroll the conversation."""
        self.query_one("#heat-box", VerticalScroll).scroll_relative(y=step, animate=False)

    @on(TokenView.Picked)
    def _clicked(self, event: TokenView.Picked) -> None:
        if event.view.id == "reply-tokens":
            self._pick(event.unit)
        elif event.unit < len(self._shown) and self._shown[event.unit].indices:
            self._input, self._ablated = event.unit, None
            self._draw()

    def action_audit(self) -> None:
        """Look at the turn in the audit browser."""
        from assistant.tui.screens.audit import AuditScreen

        def jump(target: tuple[str, str] | None) -> None:
            if target and target[1] != self._turn_id:
                self.dismiss(self._shown_method)
                self.app.call_later(getattr(self.app, "open_conversation"), *target)  # noqa: B009 (any application can show this screen)

        self.app.push_screen(AuditScreen(self._session, self._turn_id), jump)

    def action_help(self) -> None:
        """Show all keys."""
        from assistant.tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen())

    def action_leave(self) -> None:
        """Cancel what is being computed; with nothing under way go back."""
        if self._explanation is not None:
            self._explanation.cancel()
            return
        self.dismiss(self._shown_method)
