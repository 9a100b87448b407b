"""What is hidden inside a text: tag characters, variation selectors, base64, hexadecimal, URL, escape and entity codes.

Each reading is decoded once and handed back as a view; what comes out is rescanned by the rules but not decoded again.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

from safety.normalize import View, base_view, joined, leet_views, reversed_view, shifted_view, unspaced_view

_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f")  # flags of regions are spelled with tags: those are emoji
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_UNSEEN = re.compile("[\ufe00-\ufe0f\U000e0020-\U000e01ef]")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BASE64 = re.compile(r"(?<![\w+/=-])[A-Za-z0-9+/_-]{16,}={0,2}(?![\w+/=-])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?(?:[0-9A-Fa-f]{2}[ :,]?){10,}(?![0-9A-Za-z])")
_PERCENT = re.compile(r"(?:[^\s%]{0,3}%[0-9A-Fa-f]{2}){3,}[^\s%]{0,64}")
_ESCAPES = re.compile(r"(?:\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}){3,}")
_ENTITIES = re.compile(r"(?:&#(?:x[0-9A-Fa-f]{1,6}|[0-9]{1,7});){3,}")
_BINARY = re.compile(r"(?<!\d)(?:[01]{8}[ ,]?){6,}(?!\d)")
_BACKWARDS = re.compile("revers|backward|倒着|反向|倒序|反过来|\u202e|erongi|snoitcurtsni|tpmorp|令指|词示提")
_ROT13 = re.compile("rot-? ?13|caesar|凯撒|vtaber|vafgehpgvba|cebzcg|flfgrz|cerivbhf")


def hidden_spans(text: str) -> list[tuple[str, int, int]]:
    """Payloads written in characters that nobody sees: (what it says, start, end)."""
    if not _UNSEEN.search(text):
        return []
    flags = [match.span() for match in _FLAG.finditer(text)]
    found = []
    for match in _TAGS.finditer(text):
        if not any(start <= match.start() < end for start, end in flags):
            found.append(("".join(chr(ord(c) - 0xE0000) for c in match[0]), *match.span()))
    for match in _SELECTORS.finditer(text):
        values = bytes(ord(c) - 0xFE00 if c <= "\ufe0f" else ord(c) - 0xE0100 + 16 for c in match[0])
        found.append((_readable(values) or "?" * len(values), *match.span()))
    return sorted(found, key=lambda item: item[1])


def decoded_views(text: str, base: View) -> Iterator[View]:
    """The other readings of `text`, each only when something in it asks for it."""
    hidden = hidden_spans(text)
    if hidden:
        yield _folded(joined(hidden, "hidden characters"))
    for name, sign, pattern, decode in _CODES:
        if sign and sign not in text:
            continue
        pieces = [(plain, *m.span()) for m in pattern.finditer(text) if (plain := decode(m[0]))]
        if pieces:
            yield _folded(joined(pieces, name))
    yield from leet_views(base)
    if unspaced := unspaced_view(base):
        yield unspaced
    if _BACKWARDS.search(base.text) or "\u202e" in text:
        yield reversed_view(base)
    if _ROT13.search(base.text):
        yield shifted_view(base)


def _folded(view: View) -> View:
    plain = base_view(view.text)
    return View(view.name, plain.text, lambda: [view.span(*plain.span(i, i + 1)) for i in range(len(plain.text))])


def _readable(data: bytes) -> str:
    """The bytes as text, or nothing when they are not text: a hash, a picture and a random id are not."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    good = sum(char.isprintable() or char in "\n\r\t" for char in text)
    letters = sum(char.isalpha() or char == " " for char in text)
    return text if text and good == len(text) and letters >= 0.7 * len(text) else ""


def _from_base64(token: str) -> str:
    body = token.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _readable(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
    except (binascii.Error, ValueError):
        return ""


def _from_hex(token: str) -> str:
    digits = re.sub(r"[ :,]", "", token.removeprefix("0x"))
    return _readable(bytes.fromhex(digits)) if len(digits) % 2 == 0 else ""


def _from_percent(token: str) -> str:
    return _readable(unquote_to_bytes(token.encode("utf-8", "replace")))


def _from_escapes(token: str) -> str:
    numbers = re.findall(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})", token)
    return "".join(chr(int(long or short, 16)) for long, short in numbers)


def _from_binary(token: str) -> str:
    return _readable(bytes(int(octet, 2) for octet in re.findall("[01]{8}", token)))


_CODES: list[tuple[str, str, re.Pattern[str], Callable[[str], str]]] = [
    ("base64", "", _BASE64, _from_base64),
    ("hexadecimal", "", _HEX, _from_hex),
    ("URL encoding", "%", _PERCENT, _from_percent),
    ("escapes", "\\", _ESCAPES, _from_escapes),
    ("entities", "&#", _ENTITIES, html.unescape),
    ("binary", "01", _BINARY, _from_binary),
]
