"""The keys of the audit browser and the inspector, once: bindings, key bars, the help page and a person's own keys are made from this.

What a key does is the screen's method `action_<action>`; its words are in the catalogue under `<screen>.keys_<name>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding

from assistant.tui.text import say

Where = Literal["audit", "inspector"]


@dataclass(frozen=True, slots=True)
class ScreenKey:
    """One deed of a screen. `keys` are as Textual names them, separated by commas; the first is the one that is shown."""

    where: Where
    name: str
    keys: str
    action: str
    shown: bool = True
    """In the key bar, if there is room."""

    @property
    def id(self) -> str:
        """What it is called in keys.toml."""
        return f"{self.where}_{self.name}"

    @property
    def words(self) -> str:
        """What it does, in a word or two."""
        return say(f"{self.where}.keys_{self.name}")


SCREEN_KEYS: tuple[ScreenKey, ...] = (
    ScreenKey("audit", "jump", "enter", "jump"),
    ScreenKey("audit", "back", "escape,f4,q", "leave"),
    ScreenKey("audit", "search", "slash", "search"),
    ScreenKey("audit", "filter", "f", "filter(1)"),
    ScreenKey("audit", "verify", "v", "verify"),
    ScreenKey("audit", "review", "w", "review"),
    ScreenKey("audit", "redact", "r", "redact"),
    ScreenKey("audit", "export", "x", "export"),
    ScreenKey("audit", "view", "t", "view"),
    ScreenKey("audit", "filter_back", "F", "filter(-1)", shown=False),
    ScreenKey("audit", "inspect", "f3,i", "inspect", shown=False),
    ScreenKey("audit", "help", "f1", "help", shown=False),
    ScreenKey("audit", "pane", "tab", "other_pane", shown=False),
    ScreenKey("inspector", "pick_back", "left", "pick(-1)", shown=False),
    ScreenKey("inspector", "pick", "right", "pick(1)"),
    ScreenKey("inspector", "back", "escape,f3,q", "leave"),
    ScreenKey("inspector", "compute", "enter", "compute"),
    ScreenKey("inspector", "rather", "y", "rather"),
    ScreenKey("inspector", "input_back", "comma,shift+left", "pick_input(-1)", shown=False),
    ScreenKey("inspector", "input", "full_stop,shift+right", "pick_input(1)"),
    ScreenKey("inspector", "ablate", "n", "ablate"),
    ScreenKey("inspector", "whole", "w", "whole"),
    ScreenKey("inspector", "method", "m", "method"),
    ScreenKey("inspector", "level", "l", "level"),
    ScreenKey("inspector", "audit", "f4", "audit"),
    ScreenKey("inspector", "first", "home", "pick_first", shown=False),
    ScreenKey("inspector", "last", "end", "pick_last", shown=False),
    ScreenKey("inspector", "scroll_up", "up", "scroll_heat(-1)", shown=False),
    ScreenKey("inspector", "scroll_down", "down", "scroll_heat(1)", shown=False),
    ScreenKey("inspector", "help", "f1", "help", shown=False),
)

BOTH_WAYS = {"inspector_pick": "inspector_pick_back", "inspector_input": "inspector_input_back"}
"""Keys that stand together in a key bar, as ← →."""


def screen_bindings(where: Where) -> list[Binding]:
    """Textual's bindings of a screen. Ids make them remappable."""
    return [Binding(key.keys, key.action, key.id, id=key.id, show=False) for key in SCREEN_KEYS if key.where == where]


def of_screen(where: Where, own: Mapping[str, str]) -> list[tuple[ScreenKey, str]]:
    """Each deed of a screen with the keys that work for it: the person's own or the usual ones."""
    return [(key, own.get(key.id, key.keys)) for key in SCREEN_KEYS if key.where == where]
