"""The pieces that an explanation is about: tokens, but never less than a whole character.

Byte-level tokenizers cut a Chinese character into up to three tokens; such pieces mean nothing alone and are removed and shown together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring tokens `[start, end)` that form whole characters, and perhaps more tokens elsewhere that belong with them."""

    text: str
    start: int
    end: int
    role: str = ""
    more: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """All tokens of the unit, as ranges."""
        return ((self.start, self.end), *self.more)


def group(pieces: Sequence[bytes], roles: Sequence[str]) -> list[Unit]:
    """Join tokens (their bytes) until they are whole UTF-8 characters; never across a change of role."""
    if len(pieces) != len(roles):
        raise ValueError(f"{len(pieces)} pieces for {len(roles)} roles")
    units: list[Unit] = []
    held, start = b"", 0
    for i, (piece, role) in enumerate(zip(pieces, roles, strict=True)):
        if not held:
            start = i
        held += piece
        ends_run = i + 1 == len(pieces) or roles[i + 1] != role
        if ends_run or is_whole(held):
            units.append(Unit(held.decode("utf-8", "replace"), start, i + 1, role))
            held = b""
    return units


def is_whole(data: bytes) -> bool:
    """Whether `data` does not end inside a UTF-8 character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:  # a leading byte: how long is its character?
            return back >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if byte < 0x80:
            return True
    return True  # four continuation bytes in a row: broken anyway


def characters(units: Sequence[Unit]) -> list[Unit]:
    """Join units into words of Latin and other alphabetic scripts; every Han character is its own."""
    return _merge(units, _same_word)


def words(units: Sequence[Unit]) -> list[Unit]:
    """Join units into words. A word begins after white space, at a change of script or role. Between Han characters, without a dictionary:
    function words of one character stand alone, and what is left goes in pairs, the length of most Chinese words.
    """
    return _merge(units, lambda before, after: _same_word(before, after) or _same_han_word(before, after))


def _merge(units: Sequence[Unit], joins: Callable[[str, str], bool]) -> list[Unit]:
    joined: list[Unit] = []
    for unit in units:
        last = joined[-1] if joined else None
        if last is not None and last.role == unit.role and last.end == unit.start and joins(last.text, unit.text):
            joined[-1] = Unit(last.text + unit.text, last.start, unit.end, unit.role)
        else:
            joined.append(unit)
    return joined


def _same_word(before: str, after: str) -> bool:
    """Whether `after` belongs to the alphabetic word that `before` ends with."""
    return before[-1:].isalnum() and after[:1].isalnum() and not _is_han(before[-1:]) and not _is_han(after[:1])


_FUNCTION_WORDS = frozenset(
    "的了在是我你他她它这那和与或就都也很不没有吗呢吧啊把被给对从到上下里中个一请为以之其而且但因所于着过得地会能要让用"
)


def _same_han_word(before: str, after: str) -> bool:
    """Whether one Han character `after` completes a pair."""
    one, two = before.strip(), after
    return len(one) == len(two) == 1 and _is_han(one) and _is_han(two) and one not in _FUNCTION_WORDS and two not in _FUNCTION_WORDS


def _is_han(character: str) -> bool:
    return len(character) == 1 and (
        "\u4e00" <= character <= "\u9fff" or "\u3400" <= character <= "\u4dbf" or "\U00020000" <= character <= "\U0003ffff"
    )


def sentences(units: Sequence[Unit]) -> list[Unit]:
    """Join units into sentences, Chinese and English; a change of role ends one."""
    return _join(units, lambda text: text.rstrip(" \"'”’）)")[-1:] in _SENTENCE_ENDS or text.endswith("\n"))


def turns(units: Sequence[Unit]) -> list[Unit]:
    """Join all neighbouring units of one role: whole messages."""
    return _join(units, lambda text: False)


def roles(units: Sequence[Unit]) -> list[Unit]:
    """Join everything said in one role, wherever it stands. Template tokens (role `format`) stay where they are."""
    first: dict[str, int] = {}
    joined: list[Unit] = []
    for unit in turns(units):
        if unit.role in first and unit.role != "format":
            at = first[unit.role]
            one = joined[at]
            joined[at] = Unit(f"{one.text} … {unit.text}", one.start, one.end, one.role, (*one.more, *unit.spans))
        else:
            first[unit.role] = len(joined)
            joined.append(unit)
    return joined


_SENTENCE_ENDS = tuple(".!?。！？；…")


def _join(units: Sequence[Unit], ends: Callable[[str], bool]) -> list[Unit]:
    joined: list[Unit] = []
    closed = True
    for unit in units:
        if closed or joined[-1].role != unit.role or joined[-1].end != unit.start:
            joined.append(unit)
        else:
            joined[-1] = Unit(joined[-1].text + unit.text, joined[-1].start, unit.end, unit.role)
        closed = ends(joined[-1].text)
    return joined


LEVELS: dict[str, Callable[[Sequence[Unit]], list[Unit]]] = {
    "token": list, "character": characters, "word": words, "sentence": sentences, "turn": turns, "role": roles,
}  # fmt: skip


def limited(units: Sequence[Unit], kept_role: str, limit: int) -> tuple[list[Unit], str]:
    """Units whose number beside those of `kept_role` is at most `limit`, as fine as possible, and what was done in words.

    The last message stays finer than what came before it: first the earlier messages become words, sentences, whole messages, then the last
    one becomes words and sentences.
    """

    def count(some: Sequence[Unit]) -> int:
        return sum(unit.role != kept_role for unit in some)

    if count(units) <= limit:
        return list(units), "token"
    attributed = [i for i, unit in enumerate(units) if unit.role != kept_role]
    split = attributed[-1]
    while split and units[split - 1].role == units[attributed[-1]].role:
        split -= 1
    for last in ("token", "word", "sentence", "turn"):
        for earlier in ("word", "sentence", "turn"):
            coarse = LEVELS[earlier](units[:split]) + LEVELS[last](units[split:])
            if count(coarse) <= limit:
                return coarse, f"last message by {last}, earlier by {earlier}"
    return coarse, "turn"
