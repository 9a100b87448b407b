"""Every sentence of the interface, in the language in force. The sentences are in `data/ui/<language>.toml`.

One catalogue for the process: the language is a property of the person before the screen. Widgets that show fixed text
implement `retranslate()`, which the application calls when the language is switched. A sentence names a key by its
command, as `{key.stop}`.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from typing import Any

from safety.resources import data_path

LANGUAGES = ("zh", "en")


def read_catalogue(language: str) -> dict[str, str]:
    """The sentences of one language by dotted key."""
    table = tomllib.loads(data_path("ui", f"{language}.toml").read_text("utf-8"))
    return dict(_flatten(table, ""))


def _flatten(table: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            out += _flatten(value, f"{prefix}{name}.")
        else:
            out.append((prefix + name, str(value)))
    return out


def placeholders(sentence: str) -> set[str]:
    """The names that `sentence` wants filled in."""
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


class Catalogue:
    """Call it with a key and values for its placeholders."""

    def __init__(self) -> None:
        self.language = ""
        self._sentences: dict[str, str] = {}
        self._keys: object = None

    def use(self, language: str) -> None:
        """Switch to `language`."""
        self._sentences = read_catalogue(language)
        self.language = language

    def use_keys(self, own: Mapping[str, str]) -> None:
        """Let sentences name the person's `own` keys, by command, and the usual ones for the rest."""
        from assistant.tui.said_keys import KeyNames

        self._keys = KeyNames(own)

    def __call__(self, key: str, **values: object) -> str:
        if not self._sentences:
            self.use("en")
        sentence = self._sentences[key]
        if "{key." in sentence:
            if self._keys is None:
                self.use_keys({})
            return sentence.format(**values, key=self._keys)
        return sentence.format(**values)

    def counted(self, key: str, count: int) -> str:
        """The sentence `key` about `count` things; about one thing `key` with `_one`."""
        return self(key + "_one" if count == 1 else key, count=count)

    def get(self, key: str, otherwise: str) -> str:
        """The sentence `key`, or `otherwise`: for names that others invent, such as safety categories."""
        if not self._sentences:
            self.use("en")
        return self._sentences.get(key, otherwise)


say = Catalogue()
