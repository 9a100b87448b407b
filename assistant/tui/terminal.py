"""What the terminal can do, found out before Textual is imported.

Knows environment variables and file descriptors only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping

from assistant.errors import UsageError

_KITTY = "TEXTUAL_DISABLE_KITTY_KEY"
_BREAKS_COMPOSITION = ("vscode", "iTerm.app")


def guard_input_method(environ: MutableMapping[str, str]) -> None:
    """Keep Chinese input working: ask for no enhanced key reports where they are known to swallow composed characters.

    That is VS Code's terminal, iTerm2, and (to be safe) every Chinese locale. A value the user set is kept. The price
    is that Shift+Enter cannot be told from Enter there; Ctrl+J makes a new line everywhere.
    """
    if _KITTY in environ:
        return
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    if environ.get("TERM_PROGRAM") in _BREAKS_COMPOSITION or locale.lower().startswith("zh"):
        environ[_KITTY] = "1"


def shift_enter_works(environ: Mapping[str, str]) -> bool:
    """Whether enhanced key reports were asked for, so that Shift+Enter can be shown as a key."""
    return environ.get(_KITTY, "0") in ("", "0")


def in_browser(environ: Mapping[str, str]) -> bool:
    """Whether `pellucid serve` started this program: then a page is the screen."""
    return environ.get("TEXTUAL_DRIVER", "").endswith("WebDriver")


def require_screen() -> None:
    """Raises UsageError, saying what to use instead, when there is no terminal that a full screen can be drawn on."""
    if in_browser(os.environ):
        return
    for stream, name in ((sys.stdin, "input"), (sys.stdout, "output")):
        if stream is None or not stream.isatty():
            raise UsageError(
                f"the {name} is not a terminal: use `pellucid ask TEXT` for one answer, "
                "or `pellucid chat --plain` for a conversation line by line"
            )
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise UsageError("this terminal cannot draw a screen (TERM is dumb or not set): use `pellucid chat --plain` or `pellucid ask TEXT`")
