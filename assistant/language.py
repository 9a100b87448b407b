"""Which language a text is in, and what every text goes through before anything else looks at it."""

from __future__ import annotations

import re
from typing import Literal

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]+")

_SURROGATES = re.compile("[\ud800-\udfff]")


def detect(text: str) -> Literal["zh", "en"]:
    """`zh` when at least as many Han characters as Latin words are in the text, else `en`."""
    han = len(_HAN.findall(text))
    return "zh" if han and han >= len(_LATIN_WORD.findall(text)) else "en"


def clean_intake(text: str) -> str:
    """`text` without what no database, hash or tokenizer takes: lone surrogates become U+FFFD, NUL becomes its picture ␀."""
    return _SURROGATES.sub("\ufffd", text).replace("\x00", "\u2400")
