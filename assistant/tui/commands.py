"""Everything a person can ask the chat screen to do, once: keys, slash commands, palette and help are all made from
this.

A command's words are in the catalogue under `command.<id>`. Its deed is the chat screen's method `command_<id>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding

from assistant.errors import UsageError
from assistant.tui.text import say

Scope = Literal[
    "chat",  # works wherever the focus is
    "turn",  # works on the turn under the message cursor
]


@dataclass(frozen=True, slots=True)
class Command:
    """One deed. A `slash` command can be typed as /id; with `argument` the rest of the line is handed to it."""

    id: str
    keys: str = ""
    slash: bool = True
    argument: bool = False
    scope: Scope = "chat"
    hint: bool = False
    """Shown in the key bar."""

    @property
    def name(self) -> str:
        """What it is called in the palette and the key bar."""
        return say(f"command.{self.id}.name")

    @property
    def help(self) -> str:
        """One sentence on what it does."""
        return say(f"command.{self.id}.help")


COMMANDS: tuple[Command, ...] = (
    Command("stop", "escape", slash=False, hint=True),
    Command("new", "ctrl+n", hint=True),
    Command("regenerate", "ctrl+r", hint=True),
    Command("continue"),
    Command("edit", "ctrl+e"),
    Command("reveal"),
    Command("inspect", "f3", hint=True),
    Command("audit", "f4", hint=True),
    Command("search", "ctrl+f", argument=True),
    Command("list", "ctrl+s"),
    Command("model", "ctrl+l", argument=True),
    Command("persona", argument=True),
    Command("system", argument=True),
    Command("set", argument=True),
    Command("rename", argument=True),
    Command("export", argument=True),
    Command("delete"),
    Command("editor", "ctrl+g"),
    Command("settings", "f2"),
    Command("theme", argument=True),
    Command("language", argument=True),
    Command("reload"),
    Command("help", "f1"),
    Command("quit", "ctrl+q"),
    Command("cursor_up", "alt+up", slash=False),
    Command("cursor_down", "alt+down", slash=False),
    Command("turn_copy", "c", slash=False, scope="turn"),
    Command("turn_copy_code", "C", slash=False, scope="turn"),
    Command("turn_edit", "e", slash=False, scope="turn"),
    Command("turn_regenerate", "r", slash=False, scope="turn"),
    Command("turn_previous", "left_square_bracket", slash=False, scope="turn"),
    Command("turn_next", "right_square_bracket", slash=False, scope="turn"),
    Command("turn_inspect", "i", slash=False, scope="turn"),
    Command("turn_safety", "s", slash=False, scope="turn"),
    Command("turn_expand", "space", slash=False, scope="turn"),
    Command("turn_delete", "d", slash=False, scope="turn"),
    Command("turn_continue", "g", slash=False, scope="turn"),
    Command("turn_reveal", "a", slash=False, scope="turn"),
)

_BY_ID = {command.id: command for command in COMMANDS}

KEY_NAMES = {
    "escape": "Esc", "left_square_bracket": "[", "right_square_bracket": "]", "space": "Space", "alt+up": "Alt+↑",
    "alt+down": "Alt+↓", "up": "↑", "down": "↓", "left": "←", "right": "→", "comma": ",", "full_stop": ".", "slash": "/",
    "enter": "Enter", "tab": "Tab", "home": "Home", "end": "End",
}  # fmt: skip


def command(id: str) -> Command:
    """The command `id`. Raises KeyError."""
    return _BY_ID[id]


def parse_slash(line: str) -> tuple[Command, str] | None:
    """The command and argument of `/name argument`; None when the line is an ordinary message.

    Raises UsageError, naming the nearest command, for a word that looks like a command and is none.
    """
    if not line.startswith("/") or "\n" in line:
        return None
    word, _, rest = line[1:].partition(" ")
    if not word.replace("_", "").isalpha() or not word.isascii():
        return None
    found = _BY_ID.get(word)
    if found is None or not found.slash:
        import difflib

        slashes = [c.id for c in COMMANDS if c.slash]
        close = difflib.get_close_matches(word, slashes, 1)
        hint = say("error.did_you_mean", name=close[0]) if close else say("error.see_help")
        raise UsageError(say("error.unknown_command", name=word) + " " + hint)
    if rest.strip() and not found.argument:
        raise UsageError(say("error.no_argument", name=word))
    return found, rest.strip()


def matching(prefix: str) -> list[Command]:
    """The slash commands that begin with `prefix` (without the slash), in registry order."""
    return [c for c in COMMANDS if c.slash and c.id.startswith(prefix)]


def key_name(keys: str) -> str:
    """A key as it is written on keyboards."""
    first = keys.split(",")[0]
    if first in KEY_NAMES:
        return KEY_NAMES[first]
    if "+" not in first:
        return first.upper() if len(first) > 1 else first
    return "+".join(part.capitalize() if len(part) > 1 else part.upper() for part in first.split("+"))


def bindings(scope: Scope) -> list[Binding]:
    """Textual's bindings for all commands of `scope` that have a key. Ids make them remappable."""
    return [
        Binding(
            c.keys,
            f"screen.command('{c.id}')",
            c.id,
            id=c.id,
            show=False,
            priority=scope == "chat" and c.keys not in ("escape", "ctrl+e"),
        )
        for c in COMMANDS
        if c.keys and c.scope == scope
    ]


def keys_in_force(own: Mapping[str, str]) -> dict[str, str]:
    """Per command id, the key that works: the person's own or the default."""
    return {c.id: own.get(c.id, c.keys) for c in COMMANDS if c.keys or c.id in own}
