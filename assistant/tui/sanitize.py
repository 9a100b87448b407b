"""The one gate between any text and the terminal: after `sanitize` a text cannot move the cursor, write the clipboard,
set a title, hide a link, colour anything or reverse its own direction.

A control character is replaced by a visible sign (ESC becomes ␛) and the rest of its sequence stays as ordinary text.
So nothing can hide in a sequence, nothing that was written is lost, and an unfinished sequence cannot swallow what
follows. Everything is replaced one character for one, except CR LF, which becomes one line feed.
"""

from __future__ import annotations

import re

_LINE_BREAKS = "\r\x0b\x0c\x85\u2028\u2029"  # Markdown parsers disagree about these: all of them become \n
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # can show a text in another order than it has
_TAGS = "\U000e0000-\U000e007f"  # an invisible copy of ASCII
_SURROGATES = "\ud800-\udfff"  # no terminal encoding has them
_OTHER = "\u2060-\u2064\ufff9-\ufffb\ufeff"  # invisible operators, annotations, byte order mark

_UNSAFE = re.compile(rf"\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f{_LINE_BREAKS}{_BIDI}{_TAGS}{_SURROGATES}{_OTHER}]")

HIDDEN = "\u2370"
"""⍰ stands for a character that would be invisible."""


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    if character == "\r\n" or character in _LINE_BREAKS:
        return "\n"
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␀ … ␛ … ␟
    if code == 0x7F:
        return "\u2421"
    if code < 0xA0:
        return "\u241b"  # a C1 control is an escape sequence in one byte
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else HIDDEN


def sanitize(text: str) -> str:
    """`text` as it may be shown."""
    return _UNSAFE.sub(_visible, text)


def one_line(text: str, limit: int = 200) -> str:
    """`text` as it may be shown where only one line has room: titles, table cells, status lines."""
    line = " ".join(sanitize(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def unsafe_count(text: str) -> int:
    """How many characters `sanitize` would replace by a visible sign (line breaks are not counted)."""
    return sum(match.group() not in ("\r\n", *_LINE_BREAKS) for match in _UNSAFE.finditer(text))


class StreamSanitizer:
    """`sanitize` for a text that arrives in pieces: however it is cut, the pieces join to `sanitize` of the whole."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """The next part that may be shown. A CR at the very end waits: an LF may follow."""
        text = self._held + piece
        self._held = "\r" if text.endswith("\r") else ""
        return sanitize(text[: len(text) - len(self._held)])

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return sanitize(held)
