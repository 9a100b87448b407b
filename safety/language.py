"""Which of the two languages a text is in, by its letters."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["zh", "en"]
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_LATIN = re.compile("[A-Za-z]+")


def detect(text: str) -> Language:
    """`zh` when at least a third of the words of the beginning are Chinese characters."""
    start = text[:4000]
    han = len(_HAN.findall(start))
    return "zh" if han and han * 2 >= len(_LATIN.findall(start)) else "en"
