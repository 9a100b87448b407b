"""The chat screen; `screen` puts its parts together."""

from assistant.tui.screens.chat.screen import ChatScreen, SettingsChanged

__all__ = ["ChatScreen", "SettingsChanged"]
