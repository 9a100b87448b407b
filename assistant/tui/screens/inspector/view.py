"""How the inspector looks: the reply, the conversation under heat, the tables, the quality card. `screen` says what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from assistant.tui import inspection
from assistant.tui.backend import SessionLike
from assistant.tui.explanation import (
    METHODS,
    Explanation,
    find,
    row_scores,
)
from assistant.tui.sanitize import one_line
from assistant.tui.screens.once import LeftOnce
from assistant.tui.text import say
from assistant.tui.tokens import LEVELS, Level, Unit, units
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.token_view import TokenView
from assistant.turn import Turn
from explain.attribution import Attribution

_WORDS = 8


class InspectorView(LeftOnce, Screen[str]):
    """Shows what its fields say."""

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
        self._against: int | None = None  # the id of the candidate that the picked token is held against
        self._shown: list[Unit] = []  # what the heat-map shows
        self._input: int | None = None  # which of it is picked
        self._ablated: Any = None

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

    @property
    def _token(self) -> int | None:
        """The token of the reply that is picked: the last piece of a character, which brings it."""
        return None if self._picked is None else self._reply[self._picked].indices[-1]

    def on_resize(self) -> None:
        self._draw()

    def _found(self) -> tuple[Attribution, int | None] | None:
        return find(self._kept, self._method, self._reply, self._picked, self._against)

    def _draw(self) -> None:
        if self._turn is None or not self._reply:
            return
        self.query_one("#reply-tokens", TokenView).show(self._reply, [0.0] * len(self._reply), self._picked)
        picked = self._turn.tokens[self._token] if self._token is not None else None
        about = say("inspector.whole") if picked is None else ""
        self.query_one("#reply-box").border_subtitle = Content(about)
        method = say(f"inspector.method_{self._method}")
        if self._against is not None and picked is not None:
            other = next((c.text for c in picked.candidates if c.id == self._against), "")
            method = say("inspector.rather", this=one_line(picked.text, 12), that=one_line(other, 12)) + " · " + method
        self.query_one("#heat-box").border_subtitle = Content(f"{method} · {say(f'inspector.level_{self._level}')}")
        table = self.query_one("#candidates", Static)
        if self._ablated is not None and picked is not None:
            table.update(inspection.ablation_table(self._ablated.candidates, picked.id, _WORDS, table.size.width))
        else:
            table.update(inspection.candidate_table(picked, _WORDS, table.size.width, self._against))
        about = say("inspector.candidates" if self._ablated is None else "inspector.candidates_without")
        self.query_one("#candidates-box").border_title = Content(about)
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
        self._shown = shown
        self.query_one("#heat", TokenView).show(shown, scores, self._input)
        table = self.query_one("#words", Static)
        table.update(inspection.word_table(shown, scores, _WORDS, table.size.width))
        self.query_one("#quality", Static).update(inspection.quality_line(attribution.quality, self._method))
        if self._ablated is None:
            self._say(say("inspector.legend"))
        else:
            self._say(inspection.ablation_line(self._ablated.removed, self._ablated.before, self._ablated.after), "bold")

    def _draw_nothing(self) -> None:
        assert self._turn is not None
        known = self._kept[-1] if self._kept else None
        texts = known.input_tokens if known else (self._turn.prompt,)
        roles = known.input_roles if known else ("user",)
        shown, _ = _without_format(units(texts, roles, self._level), [0.0] * len(texts))
        self._shown, self._input = shown, None
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
