"""A person's own keys, from keys.toml beside the settings: `new = "ctrl+t"`, `audit_verify = "V"`; several with commas.

Every key must be one that a terminal can send, free in the place where it works, and not one that is needed for writing.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from textual.binding import Binding
from textual.keys import KEY_NAME_REPLACEMENTS, Keys

from assistant.errors import UsageError
from assistant.tui.commands import COMMANDS, command
from assistant.tui.screen_keys import SCREEN_KEYS

_MODIFIERS = {"ctrl", "alt", "shift", "super", "meta", "hyper"}
_SAME = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace", "ctrl+[": "escape", "ctrl+left_square_bracket": "escape"}
"""What terminals send for these is the other key."""
_NAMED = {key.value for key in Keys} | set(KEY_NAME_REPLACEMENTS.values())


def read_keys(path: Path) -> dict[str, str]:
    """The person's own keys by command; empty when there is no file. Raises UsageError for what cannot work."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the key map {path}: {error}") from error
    places = _places()
    for name, keys in table.items():
        if name not in places:
            raise UsageError(f"{path}: there is no command {name!r}")
        if not isinstance(keys, str) or not keys.strip():
            raise UsageError(f'{path}: {name} must be a key such as "ctrl+n", not {keys!r}')
        for key in _split(keys):
            _check(path, name, key, places[name])
    own = {name: ",".join(_split(keys)) for name, keys in table.items()}
    _refuse_twice(path, own)
    return own


def _places() -> dict[str, str]:
    """Where each command's key works, by the command's name."""
    return {c.id: c.scope for c in COMMANDS} | {key.id: key.where for key in SCREEN_KEYS}


def _usual() -> Iterator[tuple[str, str]]:
    yield from ((c.id, c.keys) for c in COMMANDS if c.keys)
    yield from ((key.id, key.keys) for key in SCREEN_KEYS)


def _split(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",") if key.strip()]


def _check(path: Path, name: str, key: str, place: str) -> None:
    *modifiers, last = key.split("+") if len(key) > 1 else [key]
    if not set(modifiers) <= _MODIFIERS or not (len(last) == 1 or last in _NAMED or _is_character(last)):
        raise UsageError(f"{path}: {name}: there is no key {key!r}; keys are written like ctrl+t, f5, alt+up, slash")
    if key in _SAME:
        raise UsageError(f"{path}: {name}: terminals cannot tell {key} from {_SAME[key]}: choose another key")
    writes = len(last) == 1 or last in ("space", "enter") or (last != "escape" and _is_character(last))
    if place == "chat" and writes and not set(modifiers) - {"shift"}:
        raise UsageError(f"{path}: {name}: {key} is needed for writing messages: choose one with ctrl or alt, or a function key")
    if name in ("stop", "edit") and key in _keys_of_the_box() and key not in command(name).keys.split(","):
        raise UsageError(f"{path}: {name}: {key} already does something in the message box: choose another key")


def _keys_of_the_box() -> set[str]:
    """What the message box does something with. Most commands go before it; those that Esc and Ctrl+E are for come after."""
    from assistant.tui.widgets.prompt import PromptInput

    given = [binding for kind in PromptInput.__mro__ for binding in vars(kind).get("BINDINGS", ())]
    keys = (binding.key if isinstance(binding, Binding) else binding[0] for binding in given)
    return {key for several in keys for key in _split(several)}


def _is_character(name: str) -> bool:
    """Whether this is how Textual calls a character, as left_square_bracket."""
    try:
        unicodedata.lookup(name.replace("_", " ").upper())
    except KeyError:
        return False
    return True


def _refuse_twice(path: Path, own: Mapping[str, str]) -> None:
    """Two commands must not have one key where both work; on a message the keys of the chat work too."""
    places = _places()
    taken: dict[tuple[str, str], str] = {}
    for name, keys in (dict(_usual()) | dict(own)).items():
        place = "chat" if places[name] == "turn" else places[name]
        for key in _split(keys):
            other = taken.setdefault((place, key), name)
            if other != name and (name in own or other in own):
                raise UsageError(f"{path}: {other} and {name} have the same key {key}: choose another for one of them")
