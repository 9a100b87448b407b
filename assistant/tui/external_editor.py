"""The message in the person's own editor, named by VISUAL or EDITOR."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from assistant.errors import UsageError
from assistant.tui.text import say


def edit(app: App[Any], text: str) -> str | None:
    """`text` as it was saved in the editor.

    Raises UsageError when there is no editor or it failed; `text` is not lost.
    """
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise UsageError(say("error.no_editor"))
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder:
        path = Path(folder, "message.md")
        path.write_text(text, "utf-8")
        try:
            with app.suspend():
                code = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
            edited = path.read_text("utf-8", errors="replace")
        except SuspendNotSupported:
            raise UsageError(say("error.no_suspend")) from None
        except (OSError, ValueError) as error:
            raise UsageError(say("error.editor_failed", error=error)) from error
    if code:
        raise UsageError(say("error.editor_failed", error=code))
    return edited
