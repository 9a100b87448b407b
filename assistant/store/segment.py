"""Chinese and English words for the full-text index.

The index knows words by the spaces between them, and Chinese has none. So every Chinese or Japanese character becomes a
word of its own, when text is indexed and when it is searched; a Chinese word is then a phrase, found at any length and
any place. Full-width Latin letters and digits count as ordinary ones.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

_CJK = (
    r"\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_CJK_CHARACTER = re.compile(f"([{_CJK}])")
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


class Word(NamedTuple):
    """A word of a text and where it stands."""

    text: str
    start: int
    end: int


def for_index(text: str) -> str:
    """`text` with every Chinese character standing alone: what goes into the index, and must go in again to be taken
    out.
    """
    return _CJK_CHARACTER.sub(r" \1 ", text.translate(_FULL_WIDTH))


def words(text: str) -> list[Word]:
    """The words of `text` without case and accents, as the index knows them."""
    plain = text.translate(_FULL_WIDTH)
    return [Word(_fold(m.group()), m.start(), m.end()) for m in _WORD.finditer(plain)]


def find_phrase(phrase: list[str], text: list[Word], prefix: bool = False) -> list[tuple[int, int]]:
    """Where the words of `phrase` stand in a row, as character ranges; with `prefix` the last may go on."""
    out: list[tuple[int, int]] = []
    count = len(phrase)
    for i in range(len(text) - count + 1):
        if all(text[i + k].text == phrase[k] for k in range(count - 1)) and (
            text[i + count - 1].text.startswith(phrase[-1]) if prefix else text[i + count - 1].text == phrase[-1]
        ):
            out.append((text[i].start, text[i + count - 1].end))
    return out


@lru_cache(maxsize=4096)
def _fold(word: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    return plain.lower()
