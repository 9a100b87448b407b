"""The audit browser."""

from assistant.tui.screens.audit.screen import AuditScreen

__all__ = ["AuditScreen"]
