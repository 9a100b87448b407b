"""The reply as it grows: finished blocks are Markdown, the open block is plain text, and at the end all of it is set
once.

Re-rendering the open block as Markdown for every token would cost most of a core; this costs about a tenth. The last
full update makes the result equal to rendering the whole reply at once.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from assistant.tui.rendering import safe
from assistant.tui.reply_blocks import Blocks
from assistant.tui.sanitize import StreamSanitizer, sanitize
from assistant.tui.widgets.markdown import SafeMarkdown
from assistant.tui.widgets.settled import Uniform
from assistant.tui.widgets.tail import Tail

PLAIN_ABOVE = 30_000
"""Longer texts are shown without Markdown."""


class Reply(Uniform, Vertical):
    """The text of one reply, either complete from the start or fed."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(classes="reply")
        self._blocks = Blocks()
        self._stream = StreamSanitizer()
        self._complete = text
        self._shown_plain = text is not None and len(text) > PLAIN_ABOVE
        self._markdown = SafeMarkdown("" if self._shown_plain or text is None else text)
        self._markdown.display = bool(text) and not self._shown_plain
        self._tail = Tail() if text is None else None

    def compose(self) -> ComposeResult:
        yield self._markdown
        if self._tail is not None:
            self._tail.display = False
            yield self._tail
        elif self._shown_plain and self._complete:
            yield _plain(self._complete)

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
        if self._tail is not None:
            self._tail.show(self._blocks.tail)

    async def finish(self, text: str) -> None:
        """Show exactly `text`, rendered as a whole."""
        self._complete = text
        if self._tail is not None:
            tail, self._tail = self._tail, None
            await tail.remove()
        for old in self.query(".plain"):
            await old.remove()
        self._shown_plain = len(text) > PLAIN_ABOVE
        if self._shown_plain:
            await self.mount(_plain(text))
        else:
            await self._markdown.update(sanitize(text))
        self._markdown.display = bool(text.strip()) and not self._shown_plain


def _plain(text: str) -> Static:
    return Static(safe(text), classes="plain", markup=False)
