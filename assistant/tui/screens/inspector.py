"""The inspector: pick a word of the reply and see which words of the conversation it came from, and what else was
possible.

Explanations that are in the ledger are shown at once; others are computed in the background and can be cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from assistant.errors import PellucidError
from assistant.tui import inspection
from assistant.tui.backend import SessionLike
from assistant.tui.explanation import (
    METHODS,
    Explained,
    ExplainFailed,
    ExplainProgress,
    Explanation,
    find,
    row_scores,
)
from assistant.tui.format import bar
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.tui.tokens import LEVELS, Level, Unit, units
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.token_view import TokenView
from assistant.turn import Turn
from explain.attribution import Attribution

_WORDS = 8


class InspectorScreen(Screen[str]):
    """Explains one logged turn; answers the method of the last explanation shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,f3,q", "leave", ""),
        ("left", "pick(-1)", ""),
        ("right", "pick(1)", ""),
        ("up", "scroll_heat(-1)", ""),
        ("down", "scroll_heat(1)", ""),
        ("home", "pick_first", ""),
        ("end", "pick_last", ""),
        ("w", "whole", ""),
        ("m", "method", ""),
        ("l", "level", ""),
        ("enter", "compute", ""),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide")]  # noqa: RUF012 (declared by Screen)
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012

    def __init__(self, session: SessionLike, turn: str) -> None:
        super().__init__()
        self._session, self._turn_id = session, turn
        self._turn: Turn | None = None
        self._kept: list[Attribution] = []
        self._reply: list[Unit] = []
        self._picked: int | None = None  # a unit of the reply; None is the whole reply
        self._method = METHODS[0]
        self._level: Level = LEVELS[0]
        self._explanation: Explanation | None = None
        self._shown_method = ""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="reply-box", classes="panel", can_focus=False):
            yield TokenView(id="reply-tokens")
        with VerticalScroll(id="heat-box", classes="panel", can_focus=False):
            yield TokenView(id="heat")
        yield Static("", id="progress", markup=False)
        with Horizontal(id="tables"):
            with Vertical(id="words-box", classes="panel"):
                yield Static("", id="words", markup=False)
            with Vertical(id="candidates-box", classes="panel"):
                yield Static("", id="candidates", markup=False)
        yield Static("", id="confidence", markup=False)
        yield Static("", id="quality", markup=False)
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        for id, key in (("reply", "reply"), ("heat", "heat"), ("words", "words"), ("candidates", "candidates")):
            self.query_one(f"#{id}-box").border_title = Content(say(f"inspector.{key}"))
        keys = {"← →": "pick", "Esc": "back", "Enter": "compute", "w": "whole", "m": "method", "l": "level"}
        self.query_one("#keys", KeyBar).show([(key, say(f"inspector.keys_{name}")) for key, name in keys.items()])
        self._say(say("inspector.loading"))
        self._read()

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
            self._say(str(error), "$text-error")
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
        self._explanation = Explanation(self._session, self._turn_id, self._method, self._token, self.post_message)
        self._draw()

    @on(ExplainProgress)
    def _progress(self, event: ExplainProgress) -> None:
        gauge = "" if event.fraction is None else f" {bar(event.fraction, 20)} {event.fraction:.0%}"
        self._say(say("inspector.computing", what=one_line(event.what, 40)) + gauge, "$text-accent")

    @on(Explained)
    def _explained(self, event: Explained) -> None:
        self._explanation = None
        self._kept.append(event.attribution)
        self._draw()

    @on(ExplainFailed)
    def _failed(self, event: ExplainFailed) -> None:
        self._explanation = None
        if event.cancelled:
            self._say(say("inspector.cancelled"), "$text-warning")
        else:
            self._say(one_line(str(event.error) or type(event.error).__name__, 300), "$text-error")

    # -- picking -----------------------------------------------------------------------------------------------------

    @property
    def _token(self) -> int | None:
        """The token of the reply that is picked: the last piece of a character, which brings it."""
        return None if self._picked is None else self._reply[self._picked].indices[-1]

    def action_pick(self, step: int) -> None:
        """Pick the next word."""
        if self._reply:
            at = (-1 if step > 0 else len(self._reply)) if self._picked is None else self._picked
            self._picked = max(0, min(at + step, len(self._reply) - 1))
            self._draw()

    def action_pick_first(self) -> None:
        """Pick the first word."""
        self._picked = 0 if self._reply else None
        self._draw()

    def action_pick_last(self) -> None:
        """Pick the last word."""
        self._picked = len(self._reply) - 1 if self._reply else None
        self._draw()

    def action_whole(self) -> None:
        """Look at the whole reply."""
        self._picked = None
        self._draw()

    def action_method(self) -> None:
        """Switch to the next method."""
        self._method = METHODS[(METHODS.index(self._method) + 1) % len(METHODS)]
        self._draw()

    def action_level(self) -> None:
        """Look at larger or smaller pieces of the conversation."""
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._draw()

    def action_scroll_heat(self, step: int) -> None:
        """Scroll the conversation."""
        self.query_one("#heat-box", VerticalScroll).scroll_relative(y=step, animate=False)

    @on(TokenView.Picked)
    def _clicked(self, event: TokenView.Picked) -> None:
        if event.view.id == "reply-tokens":
            self._picked = event.unit
            self._draw()

    def action_leave(self) -> None:
        """Cancel what is being computed; with nothing under way go back."""
        if self._explanation is not None:
            self._explanation.cancel()
            return
        self.dismiss(self._shown_method)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def on_resize(self) -> None:
        self._draw()

    def _found(self) -> tuple[Attribution, int | None] | None:
        return find(self._kept, self._method, self._reply, self._picked)

    def _draw(self) -> None:
        if self._turn is None or not self._reply:
            return
        self.query_one("#reply-tokens", TokenView).show(self._reply, [0.0] * len(self._reply), self._picked)
        picked = self._turn.tokens[self._token] if self._token is not None else None
        about = say("inspector.whole") if picked is None else ""
        self.query_one("#reply-box").border_subtitle = Content(about)
        method = say(f"inspector.method_{self._method}")
        self.query_one("#heat-box").border_subtitle = Content(f"{method} · {say(f'inspector.level_{self._level}')}")
        table = self.query_one("#candidates", Static)
        table.update(inspection.candidate_table(picked, _WORDS, table.size.width))
        line = self.query_one("#confidence", Static)
        line.update(
            Content.assemble(
                Content.styled(f"{say('inspector.confidence')} ", "$foreground 62%"),
                inspection.confidence_line(self._turn, self._reply, self._picked, max(10, line.size.width - 16)),
            )
        )
        found = self._found()
        if found is not None:
            self._draw_found(*found)
        elif self._explanation is None:
            self._draw_nothing()

    def _draw_found(self, attribution: Attribution, row: int | None) -> None:
        self._shown_method = attribution.method
        shown = units(attribution.input_tokens, attribution.input_roles, self._level)
        shown, scores = _without_format(shown, row_scores(attribution, row))
        self.query_one("#heat", TokenView).show(shown, scores)
        table = self.query_one("#words", Static)
        table.update(inspection.word_table(shown, scores, _WORDS, table.size.width))
        self.query_one("#quality", Static).update(inspection.quality_line(attribution.quality, self._method))
        self._say(say("inspector.legend"))

    def _draw_nothing(self) -> None:
        assert self._turn is not None
        known = self._kept[-1] if self._kept else None
        texts = known.input_tokens if known else (self._turn.prompt,)
        roles = known.input_roles if known else ("user",)
        shown, _ = _without_format(units(texts, roles, self._level), [0.0] * len(texts))
        self.query_one("#heat", TokenView).show(shown, [0.0] * len(shown))
        self.query_one("#words", Static).update("")
        self.query_one("#quality", Static).update("")
        self._say(say("inspector.none_yet"), "$text-accent")

    def _say(self, text: str, style: str = "$foreground 62%") -> None:
        self.query_one("#progress", Static).update(Content.styled(one_line(text, 300), style))


def _without_format(shown: Sequence[Unit], by_token: Sequence[float]) -> tuple[list[Unit], list[float]]:
    """The units without template tokens; a line that says who speaks stands before each new speaker instead."""
    out: list[Unit] = []
    scores: list[float] = []
    speaker = None
    boundary = True
    for unit in shown:
        if unit.role == "format":
            boundary = True
            continue
        if unit.role and (boundary or unit.role != speaker):
            lead = "" if not out or out[-1].text.endswith("\n") else "\n"
            out.append(Unit(f"{lead}{say.get(f'inspector.role_{unit.role}', unit.role)} ▸ ", (), "format"))
            scores.append(0.0)
        speaker, boundary = unit.role, False
        out.append(unit)
        scores.append(unit.total(by_token))
    return out, scores
