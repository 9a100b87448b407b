"""How a text looks to the matchers: views of it in which disguises are undone.

Every view keeps the way back: `View.span` turns a span of the view into a span of the text as it was written. The
text itself is never changed here, so emoji joiners, Arabic marks and Russian letters reach the model as they were
typed. All work is linear.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from safety.simplified import SIMPLIFIED

Spans = list[tuple[int, int]]
"""For each character of a view, the characters `[start, end)` of the original that it stands for."""


@dataclass(slots=True)
class View:
    """A reading of a text. `name` says which disguise was undone; offsets are worked out only when a match asks for
    them."""

    name: str
    text: str
    _make: Callable[[], Spans] | None = None
    _spans: Spans | None = field(default=None, repr=False)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the original that `[start, end)` of this view came from."""
        if self._make is None:
            return start, end
        if self._spans is None:
            self._spans = self._make()
        covered = self._spans[start:end] or self._spans[-1:]
        return (min(s for s, _ in covered), max(e for _, e in covered)) if covered else (0, 0)


_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\u3164\ufeff\uffa0"
)
_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_SPECIAL = {**dict.fromkeys(_INVISIBLE + _BIDI, ""), "İ": "i", "ß": "ss", "·": " ", "•": " "}
_QUOTES = dict.fromkeys("‘’‛ʼ`´", "'") | dict.fromkeys("“”„‟«»「」『』", '"')
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")


def fold_character(char: str) -> str:
    """The plain lower-case form of one character, often itself, empty for what cannot be seen."""
    if char in _SPECIAL:
        return _SPECIAL[char]
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:  # half a pair: no character at all
        return "\ufffd"
    if 0xFE00 <= code <= 0xFE0F or 0xE0000 <= code <= 0xE01EF:  # variation selectors and tags
        return ""
    if 0x1F1E6 <= code <= 0x1F1FF:  # regional indicators spell words too
        return chr(code - 0x1F1E6 + ord("a"))
    if 0x1F130 <= code <= 0x1F189:  # squared and circled letters
        return chr((code - 0x1F130) % 32 + ord("a")) if (code - 0x1F130) % 32 < 26 else char
    plain = unicodedata.normalize("NFKC", char)
    plain = "".join(_QUOTES.get(c, SIMPLIFIED.get(c, c)) for c in plain)
    if code < 0x250 or 0x1D400 <= code <= 0x1D7FF or 0x1E00 <= code <= 0x1EFF or _MARKS.match(char):
        plain = _MARKS.sub("", unicodedata.normalize("NFKD", plain))
    return plain.lower()


class _Fold(dict[int, str]):
    """`fold_character` as a table for `str.translate`, filled as characters turn up."""

    def __missing__(self, code: int) -> str:
        plain = self[code] = fold_character(chr(code))
        return plain


_FOLD = _Fold()

_LOOKALIKE = str.maketrans("аеорсухіјѕԁһӏвкмнтгпьԛԝαβγδεικνορτυχωηɑɡıʏɩ", "aeopcyxijsdhlbkmhtrnbqwabydeikvoptuxwnagiyi")
_FOREIGN = re.compile("[" + "".join(map(chr, _LOOKALIKE)) + "]")
_WORD = re.compile(r"[^\W\d_]+")
_ASCII_LETTER = re.compile("[a-z]")


def fold_lookalikes(text: str) -> str:
    """Cyrillic and Greek letters that pose as Latin ones, inside words that are otherwise Latin. Same length as
    `text`."""
    if not _FOREIGN.search(text) or not _ASCII_LETTER.search(text):
        return text

    def word(match: re.Match[str]) -> str:
        found = match[0]
        if not _FOREIGN.search(found):
            return found
        plain = found.translate(_LOOKALIKE)
        return plain if plain.isascii() and (mixed or _ASCII_LETTER.search(found)) else found

    words = _WORD.findall(text)
    mixed = any(_FOREIGN.search(w) and _ASCII_LETTER.search(w) for w in words)
    return _WORD.sub(word, text) if mixed else text


_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_HAN_GAP = re.compile(rf"(?<=[{_HAN}])[ \t\u3000*_.|/\\~^-]{{1,3}}(?=[{_HAN}])")


def base_view(text: str) -> View:
    """Lower case, compatibility forms, no invisible characters, no posing letters, simplified Chinese without gaps."""
    if text.isascii():
        return View("plain", text.lower())
    folded = text.translate(_FOLD)
    readable = fold_lookalikes(folded)
    final = _HAN_GAP.sub("", readable)

    def spans() -> Spans:
        first = [(i, i + 1) for i, char in enumerate(text) for _ in _FOLD[ord(char)]]
        return list(_without(first, readable, _HAN_GAP)) if final is not readable else first

    return View("plain", final, spans)


def _without(spans: Spans, text: str, gaps: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """The spans of the characters that stay when the matches of `gaps` go."""
    position = 0
    for gap in gaps.finditer(text):
        yield from spans[position : gap.start()]
        position = gap.end()
    yield from spans[position:]


_LEET = str.maketrans("013457@$!|€", "oleastasiie")
_LEET_WORD = re.compile(r"(?<![\w@$])(?=[a-z]*[0-9@$!|])(?=[0-9@$!|]*[a-z])[a-z0-9@$!|]{3,24}(?![\w@$])")
_SEPARATORS = re.compile(r"[^\w]+|_+")


def leet_views(base: View) -> list[View]:
    """`1gn0r3` read as a word; empty unless two words at least mix letters and digits."""
    mixed = _LEET_WORD.findall(base.text)
    if len(mixed) < 2:
        return []
    as_l = base.text.translate(_LEET)
    as_i = base.text.replace("1", "i").translate(_LEET)
    return [View("leetspeak", text, lambda: _identity(base)) for text in dict.fromkeys((as_i, as_l))]


def squeezed_view(base: View) -> View:
    """All letters run together, for letters or syllables that were spaced out."""

    def spans() -> Spans:
        return list(_without(_identity(base), base.text, _SEPARATORS))

    return View("run together", _SEPARATORS.sub("", base.text), spans)


_SPACED = re.compile(r"(?<![^\W_])(?:[a-z0-9][ .*_-]){3,}[a-z0-9](?![^\W_])")
_GAP = re.compile("[ .*_-]")


def unspaced_view(base: View) -> View | None:
    """`h o w  t o` read as words, where at least four letters stand alone in a row; None when there are none."""
    runs = [(m.start(), m.end()) for m in _SPACED.finditer(base.text)]
    if not runs:
        return None
    kept = [i for start, end in runs for i in range(start, end) if not _GAP.match(base.text[i])]
    gone = {i for start, end in runs for i in range(start, end)} - set(kept)
    text = "".join(char for i, char in enumerate(base.text) if i not in gone)
    return View("spaced letters", text, lambda: [base.span(i, i + 1) for i in range(len(base.text)) if i not in gone])


def reversed_view(base: View) -> View:
    """The text from its end to its beginning."""
    return View("reversed", base.text[::-1], lambda: _identity(base)[::-1])


def shifted_view(base: View) -> View:
    """The text with rot13 undone."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    table = str.maketrans(letters, letters[13:] + letters[:13])
    return View("rot13", base.text.translate(table), lambda: _identity(base))


def _identity(base: View) -> Spans:
    return [base.span(i, i + 1) for i in range(len(base.text))]


def plain_view(text: str) -> View:
    """For exact formats (addresses, numbers, keys): width folded and invisible characters gone, case kept."""
    if text.isascii():
        return View("plain", text)
    table = {ord(c): "" for c in _INVISIBLE} | {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    table |= {0x3000: " "} | {code: "\ufffd" for code in range(0xD800, 0xE000)}
    kept = text.translate(table)
    if len(kept) == len(text):
        return View("plain", kept)
    return View("plain", kept, lambda: [(i, i + 1) for i, char in enumerate(text) if table.get(ord(char), char)])


def joined(parts: Iterable[tuple[str, int, int]], name: str) -> View:
    """A view made of decoded pieces, each standing for one span of the original."""
    pieces = list(parts)
    ends = list(accumulate(len(piece) + 1 for piece, _, _ in pieces))

    def spans() -> Spans:
        return [(start, end) for piece, start, end in pieces for _ in range(len(piece) + 1)][: ends[-1] - 1]

    return View(name, "\n".join(piece for piece, _, _ in pieces), spans)
