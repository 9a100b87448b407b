"""A one-line input whose text is sanitised as it comes in, so that what it shows is what it holds."""

from __future__ import annotations

from textual.widgets import Input

from assistant.tui.sanitize import one_line, sanitize


class SafeInput(Input):
    """Textual's Input behind the sanitiser."""

    def validate_value(self, value: str) -> str:
        """Every way into the box leads through here."""
        clean = sanitize(value)
        return one_line(clean, 10_000) if "\n" in clean else clean
