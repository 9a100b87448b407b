"""The clipboard, by the ways that this machine has: a command of the desktop or of tmux, beside what the terminal itself is asked (OSC 52).

A text goes to a command on its standard input, never on a command line, and no shell reads anything. All of this blocks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from assistant.tui.terminal import in_browser

SECONDS = 3.0
"""A command that has not ended by then is given up."""
_WINDOWS = "Set-Clipboard -Value ([IO.StreamReader]::new([Console]::OpenStandardInput(), [Text.Encoding]::UTF8)).ReadToEnd()"


@dataclass(frozen=True, slots=True)
class Way:
    """A command that puts its standard input on the clipboard, and how it wants the text."""

    name: str
    command: tuple[str, ...]
    encoding: str = "utf-8"
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the command needs beside the environment of this program."""


@dataclass(frozen=True, slots=True)
class Copied:
    """Which way a text went, empty when no command took it, and the ways that failed before."""

    way: str = ""
    failed: tuple[str, ...] = ()


def ways(environ: Mapping[str, str], platform: str = sys.platform, which: Callable[[str], str | None] = shutil.which) -> list[Way]:
    """The commands that reach the clipboard of the person before this screen, best first.

    Over SSH and in a browser the desktop of this machine is not the person's own; a forwarded X display is. A command is taken from
    an absolute place only, never from the working directory.
    """
    if in_browser(environ):
        return []
    near = not (environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"))
    wanted: list[Way] = []
    if near and platform == "darwin":
        wanted.append(Way("pbcopy", ("pbcopy",), environment={"LC_ALL": "en_US.UTF-8"}))  # without it the text is read as Mac Roman
    if near and environ.get("WAYLAND_DISPLAY"):
        wanted.append(Way("wl-copy", ("wl-copy", "--type", "text/plain;charset=utf-8")))
    if environ.get("DISPLAY"):
        wanted.append(Way("xclip", ("xclip", "-selection", "clipboard", "-in")))
        wanted.append(Way("xsel", ("xsel", "--clipboard", "--input")))
    if near and (platform == "win32" or environ.get("WSL_DISTRO_NAME") or environ.get("WSL_INTEROP")):
        wanted.append(Way("PowerShell", ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", _WINDOWS)))
        wanted.append(Way("clip.exe", ("clip.exe",), "utf-16-le"))
    if environ.get("TMUX"):
        wanted.append(Way("tmux", ("tmux", "load-buffer", "-w", "-")))
    found = ((way, which(way.command[0])) for way in wanted)
    return [Way(w.name, (path, *w.command[1:]), w.encoding, w.environment) for w, path in found if path and os.path.isabs(path)]


def put(text: str, ways: Iterable[Way], seconds: float = SECONDS) -> Copied:
    """Hand `text` to the first of `ways` that takes it."""
    failed: list[str] = []
    for way in ways:
        if _ran(way.command, text.encode(way.encoding, "replace"), {**os.environ, **way.environment}, seconds):
            return Copied(way.name, tuple(failed))
        failed.append(way.name)
    return Copied("", tuple(failed))


def _ran(command: Sequence[str], data: bytes, environment: Mapping[str, str], seconds: float) -> bool:
    """Whether the command ended well. What it says is dropped: a part of it stays behind to serve the clipboard, and must hold no pipe.

    In a session of its own, so that this part outlives the terminal.
    """
    try:
        ended = subprocess.run(
            command, input=data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=seconds, check=False,
            start_new_session=True, env=environment,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0
