"""Text files in a message: a word `@path` puts the file's text below the message. It is filtered like anything one writes.

Only words that name an existing file count, so that addresses and handles stay what they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from assistant.errors import UsageError
from assistant.tui.sanitize import one_line
from assistant.tui.text import say

LIMIT = 64 * 1024
_WORD = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')


def expand(message: str) -> str:
    """`message` with the files it names. Raises UsageError for one that is too long, not text, or not to be read."""
    seen: dict[Path, str] = {}
    for quoted, plain in _WORD.findall(message):
        path = Path(quoted or plain.rstrip(".,;:!?，。；：！？)）")).expanduser()
        try:
            if path.is_file() and path not in seen:
                seen[path] = _read(path)
        except (OSError, ValueError) as error:
            raise UsageError(say("error.cannot_read", path=one_line(str(path), 80), error=error)) from error
    return "\n\n".join([message, *(_block(path, text) for path, text in seen.items())])


def _read(path: Path) -> str:
    size = path.stat().st_size
    shown = one_line(str(path), 80)
    if size > LIMIT:
        raise UsageError(say("error.too_long", path=shown, size=size // 1024, limit=LIMIT // 1024))
    data = path.read_bytes()[: LIMIT + 1]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(say("error.not_text", path=shown)) from None
    if "\x00" in text:
        raise UsageError(say("error.not_text", path=shown))
    return text


def _block(path: Path, text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{path.name}:\n{fence}\n{text.rstrip()}\n{fence}"
