"""The terminal application: one session, one chat screen, and the other screens over it.

`run` is what the command line calls. Nothing imported here imports torch: the model is loaded behind the first paint.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from textual import on
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.command import CommandPalette
from textual.screen import Screen
from textual.theme import Theme

from assistant import paths
from assistant.settings import Settings
from assistant.tui import commands, wrapping
from assistant.tui.backend import LedgerLike, SessionLike
from assistant.tui.own_keys import read_keys
from assistant.tui.screens.chat import ChatScreen, SettingsChanged
from assistant.tui.terminal import require_screen
from assistant.tui.text import say
from assistant.tui.themes import DEFAULT, THEMES

_GRACE = 5.0  # seconds a reply may take to end when the program is left
_BACKGROUND = ("explain", "ablate", "verify")


class PellucidApp(App[int]):
    """Pellucid in a terminal."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    TITLE = "Pellucid"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = []

    def __init__(
        self,
        session: SessionLike,
        conversation: str | None = None,
        own_keys: Mapping[str, str] | None = None,
        recovered: int = 0,
    ) -> None:
        wrapping.install()
        say.use(session.settings.interface_language)
        self._themes_by_name: dict[str, Theme] = {}
        super().__init__()
        self.session = session
        self.own_keys = dict(own_keys or {})
        say.use_keys(self.own_keys)
        self._conversation = conversation
        self._recovered = recovered
        for theme in THEMES:
            self.register_theme(theme)
        self._take_theme(self.session.settings)  # before the style sheets are read, which else would happen twice

    def on_mount(self) -> None:
        if self.own_keys:
            self.set_keymap(self.own_keys)
        self.chat = ChatScreen(self.session, self._conversation, self._recovered)
        self.push_screen(self.chat)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette's entries: every command of the chat."""
        if isinstance(screen, ChatScreen):
            for command in commands.COMMANDS:
                if command.scope == "chat" and command.slash:
                    yield SystemCommand(command.name, command.help, lambda id=command.id: self._palette(id))

    def action_command_palette(self) -> None:
        """Open the palette, in the language in force."""
        if self.use_command_palette and not CommandPalette.is_open(cast(App[object], self)):
            self.push_screen(CommandPalette(id="--command-palette", placeholder=say("keys.palette_placeholder")))

    def _palette(self, id: str) -> None:
        self.call_later(self.chat.action_command, id)

    @on(SettingsChanged)
    def _settings_changed(self, event: SettingsChanged) -> None:
        self._take_theme(event.settings)
        if event.settings.interface_language != say.language:
            say.use(event.settings.interface_language)
            for screen in self.screen_stack:
                if hasattr(screen, "retranslate"):
                    screen.retranslate()

    def open_conversation(self, conversation: str, turn: str | None = None) -> None:
        """Show a conversation in the chat, whatever screen asks for it."""
        self.chat.open_conversation(conversation, turn)

    def get_theme(self, theme_name: str) -> Theme | None:
        """Textual asks this for every line it draws and builds a table of all themes each time; here it is remembered."""
        if theme_name not in self._themes_by_name:
            found = super().get_theme(theme_name)
            if found is None:
                return None
            self._themes_by_name[theme_name] = found
        return self._themes_by_name[theme_name]

    def _take_theme(self, settings: Settings) -> None:
        self.theme = settings.theme if settings.theme in self.available_themes else DEFAULT


def run(settings: Settings, *, conversation: str | None = None, ledger: LedgerLike | None = None) -> int:
    """Run the application until it is left; returns the exit code.

    Raises UsageError where no screen can be drawn and LedgerError where the log cannot be opened.
    """
    require_screen()
    keys = read_keys(paths.config_file().with_name("keys.toml"))
    from assistant.session import Session

    opened: Any = ledger
    recovered = 0
    if opened is None:
        from assistant.store.ledger import Ledger

        opened = Ledger.open(settings.database_path)
        recovered = len(opened.recover())
    app = PellucidApp(Session(settings, opened), conversation, keys, recovered)
    code = app.run()
    generation = app.chat.generation
    if generation is not None:
        generation.stop()
        generation.join(_GRACE)
    for thread in threading.enumerate():  # one that still computes when the interpreter goes would take it down
        if thread.name in _BACKGROUND:
            thread.join(_GRACE)
    if ledger is None:
        opened.close()
    return code or app.return_code or os.EX_OK
