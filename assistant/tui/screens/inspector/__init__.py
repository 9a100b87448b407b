"""The inspector."""

from assistant.tui.screens.inspector.screen import InspectorScreen

__all__ = ["InspectorScreen"]
