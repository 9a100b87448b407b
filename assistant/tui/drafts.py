"""What was written and not sent, kept per conversation in a private file until it is sent or deleted."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from assistant.errors import UsageError
from assistant.tui.text import say

_LIMIT = 200
"""Only so many drafts are kept, the newest."""


class Drafts:
    """The drafts by conversation; the empty name is the new conversation. Written only when something changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts: dict[str, str] = {}
        self._saved: dict[str, str] = {}

    def read(self) -> None:
        """Take up the drafts of the last time. A damaged file counts as none: it is replaced at the next save."""
        try:
            table = json.loads(self._path.read_text("utf-8"))
            self._texts = {str(key): str(text) for key, text in table.items()}
        except FileNotFoundError:
            self._texts = {}
        except (OSError, ValueError, AttributeError):
            self._texts = {}
        self._saved = dict(self._texts)

    def get(self, conversation: str | None) -> str:
        """The draft of a conversation; empty when there is none."""
        return self._texts.get(conversation or "", "")

    def keep(self, conversation: str | None, text: str) -> None:
        """Remember `text`; a blank one forgets the draft."""
        self._texts.pop(conversation or "", None)
        if text.strip():
            self._texts[conversation or ""] = text
        for name in list(self._texts)[:-_LIMIT]:
            del self._texts[name]

    def save(self) -> None:
        """Write what changed. Raises UsageError when that cannot be done; the drafts stay in memory."""
        if self._texts == self._saved:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix="drafts-")  # made for the owner alone
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(self._texts, file, ensure_ascii=True)
            os.replace(name, self._path)
        except OSError as error:
            raise UsageError(say("error.cannot_write", path=self._path, error=error)) from error
        self._saved = dict(self._texts)
