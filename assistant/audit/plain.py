"""Text from the log, made harmless for a terminal or a page: control and direction characters become visible signs."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)


def plain(text: str) -> str:
    """`text` without anything that a terminal would obey."""

    def sign(match: re.Match[str]) -> str:
        code = ord(match.group())
        return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"

    return _CONTROL.sub(sign, text)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in which every control character is escaped, so that it is exact and harmless at once."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _CONTROL.sub(lambda m: "".join(f"\\u{unit:04x}" for unit in _utf16(m.group())), text)


def when(us: int) -> str:
    """A time as the reader's clock showed it."""
    try:
        return datetime.fromtimestamp(us / 1_000_000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "?"


def _utf16(character: str) -> list[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
