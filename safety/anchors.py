"""Which of a thousand plain words occur in a text, in one pass."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PIECE = 3 << 10


class AnchorIndex:
    """Finds its words in texts. Words that begin in ASCII share one expression, built as a tree of letters; others
    are few enough in any text to be looked up by their first character."""

    def __init__(self, words: Iterable[str]) -> None:
        distinct = sorted(set(words))
        latin = [word for word in distinct if word[0].isascii()]
        self._others = [word for word in distinct if not word[0].isascii()]
        self._tree = re.compile(f"(?=({_tree(latin)}))") if latin else None
        known = set(latin)
        self._longest = max(map(len, latin), default=0)
        self._within = {word: [p for n in range(1, len(word)) if (p := word[:n]) in known] for word in latin}

    def present(self, text: str) -> set[str]:
        """The words that occur in `text`."""
        pieces = {text[i : i + _PIECE + self._longest] for i in range(0, len(text), _PIECE)}  # padding repeats itself
        found = {match[1] for piece in pieces for match in self._tree.finditer(piece)} if self._tree else set()
        for word in list(found):  # the tree gives the longest word at a place
            found.update(self._within[word])
        if self._others and not text.isascii():
            letters = set(text)
            found.update(word for word in self._others if word[0] in letters and word in text)
        return found


def _tree(words: list[str]) -> str:
    """An expression for exactly these words, longest first, in which no two branches begin alike."""
    branches: dict[str, list[str]] = {}
    for word in words:
        if word:
            branches.setdefault(word[0], []).append(word[1:])
    parts = [re.escape(letter) + _tree(rest) for letter, rest in branches.items()]
    if not parts:
        return ""
    body = parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
    return f"(?:{body})?" if "" in words else body
