"""Where a growing Markdown text may be cut: everything before the cut is finished and never changes again.

A cut is made after a blank line outside of fences and lists, and after a closing fence. Pure text, fed piece by piece.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")
_CONTINUES = re.compile(r"\s+\S|\s*(?:[-*+]|\d{1,9}[.)])\s")


class Blocks:
    """The text so far, and how much of it is finished."""

    def __init__(self) -> None:
        self.text = ""
        self.done = 0
        """Everything before this position is finished."""
        self._scanned = 0
        self._fence = ""
        self._blank_at: int | None = None  # a cut that holds unless the next line continues a list

    @property
    def tail(self) -> str:
        """The open block."""
        return self.text[self.done :]

    def feed(self, piece: str) -> str:
        """Add `piece`; returns the text that has become finished, empty most of the time."""
        self.text += piece
        start = self.done
        while (end := self.text.find("\n", self._scanned)) >= 0:
            self._line(self.text[self._scanned : end], end + 1)
            self._scanned = end + 1
        return self.text[start : self.done]

    def _line(self, line: str, after: int) -> None:
        fence = _FENCE.match(line)
        if self._fence:
            closes = fence and fence[1].startswith(self._fence) and not fence[2].strip()
            if closes:
                self._fence, self.done, self._blank_at = "", after, None
            return
        if not line.strip():
            if self._blank_at is None and self.text[self.done : after].strip():
                self._blank_at = after
            return
        if self._blank_at is not None:
            if not _CONTINUES.match(line):
                self.done = self._blank_at
            self._blank_at = None
        if fence and not (fence[1][0] == "`" and "`" in fence[2]):
            self._fence = fence[1]
