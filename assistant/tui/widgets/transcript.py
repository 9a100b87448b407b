"""The turns of the branch that is shown. Only the newest are mounted; older ones come when asked for, a window at a
time.

A conversation of thousands of turns therefore opens as fast as a short one, and a token costs the same in both.
"""

from __future__ import annotations

from typing import ClassVar

from textual._styles_cache import StylesCache
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from assistant.tui.branch import Branch
from assistant.tui.text import say
from assistant.tui.widgets.settled import Settled
from assistant.tui.widgets.turn_view import TurnView
from assistant.turn import Turn

WINDOW = 10
"""How many turns are mounted at once; twice as many before the oldest are unmounted."""


class Earlier(Static):
    """The row that stands for the turns that are not mounted."""

    def __init__(self, count: int) -> None:
        super().__init__("", classes="earlier", markup=False)
        self.count = count
        self.retranslate()

    def retranslate(self) -> None:
        """Say the number in the language in force."""
        self.update(Content.styled(say.counted("transcript.earlier", self.count), "$foreground 62%"))

    async def on_click(self) -> None:
        transcript = self.parent
        assert isinstance(transcript, Transcript)
        await transcript.load_earlier()


class Transcript(Settled, VerticalScroll, can_focus=False):
    """A scrolling column of turn views."""

    BINDINGS: ClassVar[list[BindingType]] = []

    class Pruned(Message):
        """Old turns have left the screen, and with them most of what it keeps in memory."""

    def __init__(self, welcome: Static, id: str | None = None) -> None:
        super().__init__(id=id)
        self._welcome = welcome
        self._branch = Branch()
        self._first = 0  # index in the path of the first mounted turn
        self._following = True
        self._growing = False

    def compose(self) -> ComposeResult:
        yield self._welcome

    @property
    def views(self) -> list[TurnView]:
        """The mounted turns, oldest first."""
        return list(self.query(TurnView))

    async def show(self, branch: Branch, at: str | None = None) -> None:
        """Show `branch` from its end, or so that turn `at` is mounted and in view."""
        self._branch = branch
        path = branch.path
        ids = [turn.id for turn in path]
        self._first = max(0, len(path) - WINDOW)
        if at in ids:
            self._first = min(self._first, max(0, ids.index(at) - 1))
        with self.app.batch_update():
            await self.remove_children("TurnView, Earlier")
            self._welcome.display = not path
            await self.mount_all([*self._earlier_row(), *(self._view(turn) for turn in path[self._first :])])
        self._following = True
        self.follow()
        if at in ids and at != ids[-1]:
            self.call_after_refresh(self._reveal, at)

    async def begin(self, prompt: str, after: str | None) -> TurnView:
        """Mount a turn in the making behind the turn `after`; everything that stood there goes."""
        kept = {turn.id for turn in self._branch.up_to(after)}
        for view in self.views:
            if view.turn is None or view.turn.id not in kept:
                await view.remove()
        self._welcome.display = False
        await self._prune()
        view = TurnView(prompt=prompt)
        await self.mount(view)
        self._following = self._growing = True
        self.follow()
        self.set_timer(0.3, self.rest)  # once the view has come to its place
        return view

    def settle(self) -> None:
        """The reply is whole: everything is laid out again, and nothing is anchored any more."""
        self._growing = False
        self.anchor(False)
        self.wake()
        self.follow()

    def follow(self) -> None:
        """Keep the end in view, unless the person has scrolled away from it.

        While a reply grows the end is anchored, so that a layout and the scrolling to its end are drawn as one.
        """
        if not self._following:
            return
        if self._growing and self.max_scroll_y > 0:  # an anchored text that is shorter than the view would hang from its bottom
            if not self.is_anchored:
                self.anchor()
        else:
            self.scroll_end(animate=False)

    def on_resize(self) -> None:
        self.wake()
        self.follow()

    def rest(self) -> None:
        """While a reply grows: turns wholly above the view keep their height and leave the layout, which is what costs."""
        if self._following:
            for view in self.views[:-1]:
                if view.virtual_region.bottom <= self.scroll_y:
                    view.rest()

    def wake(self) -> None:
        """Lay out all mounted turns again."""
        for view in self.views:
            view.wake()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up lets go of the end, coming back to it takes hold again."""
        super().watch_scroll_y(old_value, new_value)
        if new_value >= self.max_scroll_y - 1:
            self._following = True
        elif new_value < old_value:
            self._following = False
            self.wake()

    async def load_earlier(self) -> None:
        """Mount one more window of older turns, keeping what is in view in view."""
        if not self._first:
            return
        until, self._first = self._first, max(0, self._first - WINDOW)
        distance = self.max_scroll_y - self.scroll_y
        with self.app.batch_update():
            await self.remove_children("Earlier")
            new = [*self._earlier_row(), *(self._view(turn) for turn in self._branch.path[self._first : until])]
            await self.mount_all(new, before=self._welcome if not self.views else self.views[0])
        self.call_after_refresh(lambda: self.scroll_to(y=self.max_scroll_y - distance, animate=False))

    async def move_cursor(self, step: int) -> None:
        """Put the message cursor on the next turn up (-1) or down (+1), beginning at the last one."""
        views = self.views
        if not views:
            return
        focused = [i for i, view in enumerate(views) if view.has_focus]
        at = focused[0] + step if focused else len(views) - 1
        if at < 0 and self._first:
            await self.load_earlier()
            at = len(self.views) - len(views) - 1
            views = self.views
        target = views[max(0, min(at, len(views) - 1))]
        target.focus(scroll_visible=False)
        target.scroll_visible(animate=False)

    def current(self) -> TurnView | None:
        """The turn under the message cursor, else the last one."""
        views = self.views
        return next((view for view in views if view.has_focus), views[-1] if views else None)

    def view_of(self, turn: str) -> TurnView | None:
        """The view of this turn, when it is mounted."""
        return next((view for view in self.views if view.turn is not None and view.turn.id == turn), None)

    def place_siblings(self) -> None:
        """Say on every turn which of how many siblings it is."""
        for view in self.views:
            if view.turn is not None:
                view.place(self._branch.position(view.turn))

    def _view(self, turn: Turn) -> TurnView:
        return TurnView(turn, position=self._branch.position(turn))

    def _earlier_row(self) -> list[Earlier]:
        return [Earlier(self._first)] if self._first else []

    async def _prune(self) -> None:
        views = self.views
        if len(views) <= 2 * WINDOW:
            return
        gone = views[: len(views) - WINDOW]
        self._first += len(gone)
        with self.app.batch_update():
            await self.remove_children("Earlier")
            for view in gone:
                await view.remove()
            await self.mount_all(self._earlier_row(), before=self.views[0])
        # Textual remembers colours by the drawing they were for, and so keeps a thousand drawings of widgets that are gone
        StylesCache.get_inner_outer.cache_clear()
        self.post_message(self.Pruned())

    def _reveal(self, turn: str) -> None:
        for view in self.views:
            if view.turn is not None and view.turn.id == turn:
                view.focus(scroll_visible=False)
                view.scroll_visible(animate=False, top=True)
