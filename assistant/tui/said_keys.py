"""The names of keys as sentences say them: `{key.stop}` in the catalogue is the key that works for the command `stop`."""

from __future__ import annotations

from collections.abc import Mapping

from assistant.tui.commands import COMMANDS, key_name
from assistant.tui.screen_keys import SCREEN_KEYS


class KeyNames:
    """One attribute per command and per key of a screen: the name of the person's own key, or of the usual one."""

    def __init__(self, own: Mapping[str, str]) -> None:
        usual = {c.id: c.keys for c in COMMANDS if c.keys} | {key.id: key.keys for key in SCREEN_KEYS}
        self._names = {id: key_name(keys) for id, keys in (usual | dict(own)).items()}

    def __getattr__(self, id: str) -> str:
        try:
            return self._names[id]
        except KeyError:
            raise AttributeError(f"no key does {id}") from None
