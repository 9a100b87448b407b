"""Links and pictures in a reply that would carry text of the conversation to somebody's server."""

from __future__ import annotations

import re

from safety.pii import Span

_PICTURE = re.compile(r"!\[[^\]\n]{0,200}\]\(\s?<?(?P<v>https?://[^\s)>]{1,2000})")
_LINK = re.compile(r"(?<!!)\[[^\]\n]{0,200}\]\(\s?<?(?P<v>https?://[^\s)>]{1,2000})")
_TAG = re.compile(r"(?i)<(?:img|iframe|script|object|embed)[^>\n]{1,200}?(?:src|data)\s?=\s?['\"]?(?P<v>https?://[^\s'\">]{1,2000})")
_LOAD = re.compile(r"[?&#;][^=\s]{1,64}=[^&#\s]{24,}|[?&][^=\s]{1,64}=[^&#\s]*[{<\[]|[?#][^=&\s]{48,}|/[A-Za-z0-9+_-]{64,}")
_HEAVY = re.compile(r"[?&#;][^=\s]{1,64}=[^&#\s]{80,}|[?&][^=\s]{1,64}=[^&#\s]*[{<]")


def find_leaking_links(text: str) -> list[Span]:
    """Addresses of pictures that carry a load, and of links that carry a heavy one."""
    if "://" not in text:
        return []
    found = [(m, _LOAD) for pattern in (_PICTURE, _TAG) for m in pattern.finditer(text)]
    found += [(m, _HEAVY) for m in _LINK.finditer(text)]
    spans = {m.span("v") for m, load in found if load.search(m["v"])}
    return [Span("link", start, end) for start, end in sorted(spans)]
