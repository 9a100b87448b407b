"""Deeds on the program itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.errors import UsageError
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import ChoiceDialog
from assistant.tui.text import LANGUAGES, say

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen


async def editor(screen: ChatScreen, argument: str) -> None:
    """Write the message in the editor named by VISUAL or EDITOR."""
    from assistant.tui import external_editor

    text = external_editor.edit(screen.app, screen.prompt.text)
    if text is not None:
        screen.prompt.load_text(text.rstrip("\n"))
        screen.prompt.move_cursor(screen.prompt.document.end)


async def settings(screen: ChatScreen, argument: str) -> None:
    """Open the settings."""
    from assistant.tui.screens.settings import SettingsScreen

    screen.app.push_screen(SettingsScreen(screen.session.settings), screen.take_settings)


async def theme(screen: ChatScreen, argument: str) -> None:
    """Change the colours."""
    names = sorted(screen.app.available_themes)

    def choose(name: str | None) -> None:
        if name is None:
            return
        if name not in names:
            screen.tell(say("error.unknown_theme", name=name), "warning")
        else:
            screen.change_setting("theme", name)

    if argument:
        choose(argument)
    else:
        rows = [(name, name, "") for name in names]
        screen.app.push_screen(ChoiceDialog(say("command.theme.name"), rows, screen.app.theme), choose)


async def language(screen: ChatScreen, argument: str) -> None:
    """Switch between Chinese and English."""
    chosen = argument or next(name for name in LANGUAGES if name != say.language)
    if chosen not in LANGUAGES:
        raise UsageError(say("error.unknown_language", name=one_line(chosen, 20)))
    screen.change_setting("language", chosen)


async def reload(screen: ChatScreen, argument: str) -> None:
    """Load the model again, after its load failed."""
    if screen.load_error is None:
        raise UsageError(say("error.model_is_loaded"))
    screen.load_model()


async def help_(screen: ChatScreen, argument: str) -> None:
    """Show all keys and commands."""
    from assistant.tui.screens.help import HelpScreen

    screen.app.push_screen(HelpScreen())


async def quit_(screen: ChatScreen, argument: str) -> None:
    """Leave. A reply in the making is stopped and kept."""
    screen.app.exit(0)
