"""Line breaking for Chinese beside Latin text: a replacement for the two word-splitting functions that Textual wraps
with.

A line never begins with closing punctuation nor ends with an opening one (kinsoku), a Latin word inside Chinese is
never cut while it fits on a line, and pure English breaks exactly as before. Knows only text and cell widths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.cells import cell_len, chop_cells

_CJK = (
    "\u2e80-\u303f\u3040-\u30ff\u3100-\u312f\u3130-\u318f\u31a0-\u31ff\u3200-\u4dbf\u4e00-\u9fff"
    "\ua000-\ua4cf\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
)
NOT_AT_START = frozenset("，。、；：？！）》」』】〕〉”’…—～·％℃‰°′″,.;:?!)]}%々ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ〗〞︶﹂﹄")
NOT_AT_END = frozenset("（《「『【〔〈“‘([{￥＄$£#〖〝︵﹁﹃")

_PIECE = re.compile(rf"\s*(?:[{_CJK}]|[^\s{_CJK}]+)\s*|\s+")


def units(text: str) -> Iterator[tuple[int, int]]:
    """The stretches `[start, end)` of `text` that should stay on one line, each with the white space after it."""
    start = end = 0
    for match in _PIECE.finditer(text):
        if start < end and not _glued(text, match.start()):
            yield start, end
            start = end
        end = match.end()
    if start < end:
        yield start, end


def _glued(text: str, at: int) -> bool:
    """Whether a line must not be broken before position `at`."""
    return (text[at] in NOT_AT_START and not text[at - 1].isspace()) or text[at - 1] in NOT_AT_END


def divide_line(text: str, width: int, fold: bool = True) -> list[int]:
    """The positions at which `text` is broken so that every line fits `width` cells.

    A unit wider than a line is cut where the line is full when `fold`, and left sticking out otherwise.
    """
    breaks: list[int] = []
    used = 0
    for start, end in units(text):
        unit = text[start:end]
        needed = cell_len(unit.rstrip())
        if used + needed <= width:
            used += cell_len(unit)
            continue
        if start:
            breaks.append(start)
        used = cell_len(unit)
        if needed > width > 0 and fold:
            *full, rest = chop_cells(unit, width)
            for part in full:
                start += len(part)
                breaks.append(start)
            used = cell_len(rest)
    return breaks


def chunks(text: str) -> Iterable[tuple[int, int, str]]:
    """The units of `text` as the editor's own wrapping wants them."""
    for start, end in units(text):
        yield start, end, text[start:end]


def install() -> None:
    """Make every Textual widget of this process wrap by these rules. Harmless when called again."""
    import textual._wrap
    import textual.content

    vars(textual.content)["divide_line"] = divide_line  # both names are looked up in their module at every call
    vars(textual._wrap)["chunks"] = chunks
