"""The pieces that an explanation is about: tokens, but never less than a whole character.

Byte-level tokenizers cut a Chinese character into up to three tokens; such pieces mean nothing alone and are removed and shown together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring tokens `[start, end)` that form whole characters."""

    text: str
    start: int
    end: int
    role: str = ""


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
