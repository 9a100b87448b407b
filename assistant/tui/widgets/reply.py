"""The reply as it grows: finished blocks are Markdown, the open block is plain text, and at the end all of it is set
once.

Re-rendering the open block as Markdown for every token would cost most of a core; this costs about a tenth. The last
full update makes the result equal to rendering the whole reply at once.
"""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from assistant.tui.rendering import safe
from assistant.tui.reply_blocks import Blocks
from assistant.tui.sanitize import StreamSanitizer, sanitize
from assistant.tui.widgets.markdown import SafeMarkdown

PLAIN_ABOVE = 30_000
"""Longer texts are shown without Markdown."""

_LAYOUT_EVERY = 0.3
"""Seconds between two growths of the reply: a new line moves everything above it, and that is what costs."""


class Reply(Vertical):
    """The text of one reply, either complete from the start or fed."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(classes="reply")
        self._blocks = Blocks()
        self._stream = StreamSanitizer()
        self._complete = text
        self._laid_out = 0.0
        self._behind = False
        plain = text is not None and len(text) > PLAIN_ABOVE
        self._markdown = SafeMarkdown("" if plain or text is None else text)
        self._tail = Static(safe(text) if plain and text else "", classes="tail", markup=False)
        self._markdown.display = bool(text) and not plain
        self._tail.display = plain

    def compose(self) -> ComposeResult:
        yield self._markdown
        yield self._tail

    @property
    def text(self) -> str:
        """What is shown, sanitised."""
        return sanitize(self._complete) if self._complete is not None else self._blocks.text

    async def feed(self, piece: str) -> None:
        """Show `piece` after what is there."""
        finished = self._blocks.feed(self._stream.feed(piece))
        if finished.strip():
            self._markdown.display = True
            await self._markdown.append(finished)
        await self._show_tail(finished=bool(finished.strip()))

    async def catch_up(self) -> None:
        """Show the words that were held back to save a layout, once it is time."""
        if self._behind and self._complete is None:
            await self._show_tail(finished=False)

    async def _show_tail(self, finished: bool) -> None:
        tail = Content(self._blocks.tail.strip("\n"))
        visible = bool(tail.plain.strip())
        width = self._tail.size.width
        # as long as no line is added nothing moves, and only these lines are drawn again
        still = visible == self._tail.display and width > 0 and len(tail.wrap(width)) == self._tail.size.height
        if not still and not finished and time.monotonic() - self._laid_out < _LAYOUT_EVERY:
            self._behind = True
            return
        self._behind = False
        self._tail.display = visible
        self._tail.update(tail, layout=not still)
        if not still:
            self._laid_out = time.monotonic()

    async def finish(self, text: str) -> None:
        """Show exactly `text`, rendered as a whole."""
        self._complete = text
        plain = len(text) > PLAIN_ABOVE
        if not plain:
            await self._markdown.update(sanitize(text))
        else:
            self._tail.update(safe(text))
        self._markdown.display = bool(text.strip()) and not plain
        self._tail.display = plain
