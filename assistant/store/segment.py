"""Chinese and English words for the full-text index.

The index knows words by the spaces between them, and Chinese has none. So every Chinese or Japanese character becomes a
word of its own, when text is indexed and when it is searched; a Chinese word is then a phrase, found at any length and
any place. Full-width Latin letters and digits count as ordinary ones.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_CJK = (
    r"\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_CJK_RUN = re.compile(f"[{_CJK}]+")
_FULL_WIDTH_CHARACTER = re.compile("[\uff01-\uff5e]")
_CJK_CHARACTER = re.compile(f"([{_CJK}])")
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_])+")
_LETTER = rf"[^\W_{_CJK}]"
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
    if text.isascii():
        return text
    return _CJK_RUN.sub(_apart, text.translate(_FULL_WIDTH) if _FULL_WIDTH_CHARACTER.search(text) else text)


def chinese_runs(text: str) -> list[str]:
    """The Chinese and Japanese characters of `text`, as many in a row as there are."""
    return _CJK_RUN.findall(text)


def words(text: str) -> list[Word]:
    """The words of `text` without case and accents, as the index knows them."""
    plain = text.translate(_FULL_WIDTH)
    return [Word(_fold_word(m.group()), m.start(), m.end()) for m in _WORD.finditer(plain)]


def pattern(phrase: list[str], prefix: bool = False) -> re.Pattern[str]:
    """Finds the words of `phrase` in a row in a text that went through `fold`; with `prefix` the last may go on."""
    pieces = [w if _CJK_CHARACTER.match(w) else rf"(?<!{_LETTER}){re.escape(w)}(?!{_LETTER})" for w in phrase]
    if prefix and not _CJK_CHARACTER.match(phrase[-1]):
        pieces[-1] = rf"(?<!{_LETTER}){re.escape(phrase[-1])}{_LETTER}*"
    return re.compile(r"[\W_]*".join(pieces))


def fold(text: str) -> str:
    """`text` without case and accents, character for character: places in it are places in `text`."""
    return text.lower() if text.isascii() else text.translate(_FOLDED)


class _Folded(dict[int, str]):
    """What each character counts as, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        code = _FULL_WIDTH.get(code, code)
        base = unicodedata.normalize("NFD", chr(code))[0].lower()
        self[code] = base[0] if base else chr(code)
        return self[code]


_FOLDED = _Folded()


def _apart(run: re.Match[str]) -> str:
    return f" {' '.join(run.group())} "


def _fold_word(word: str) -> str:
    return fold("".join(c for c in unicodedata.normalize("NFC", word) if not unicodedata.combining(c)))
