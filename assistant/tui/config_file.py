"""Writing settings back to the person's own configuration file:
only the lines that change, comments stay. Pure but `save`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from assistant.errors import UsageError
from assistant.tui.text import say


def with_values(text: str, values: Mapping[str, str | int | float]) -> str:
    """The TOML `text` with top-level `values` set; everything else as it was. Raises UsageError when that fails."""
    head, table, tail = _split(text)
    for name, value in values.items():
        line = f"{name} = {json.dumps(value, ensure_ascii=False)}"
        pattern = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*=.*$", re.MULTILINE)
        if pattern.search(head):
            head = pattern.sub(lambda _, line=line: line, head, count=1)  # type: ignore[misc]
        else:
            head = head + ("" if not head or head.endswith("\n") else "\n") + line + "\n"
    made = head + table + tail
    try:
        read = tomllib.loads(made)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the configuration file cannot be changed automatically: {error}") from error
    if any(read.get(name) != value for name, value in values.items()):
        raise UsageError("the configuration file cannot be changed automatically: change it with an editor")
    return made


def _split(text: str) -> tuple[str, str, str]:
    """The top-level lines, the first table header, and what follows it."""
    match = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    return (text, "", "") if match is None else (text[: match.start()], match.group(), text[match.end() :])


def save(path: Path, values: Mapping[str, str | int | float]) -> None:
    """Set `values` in the file, made when there is none; the old file stays whole until the new one is complete."""
    try:
        text = path.read_text("utf-8") if path.exists() else ""
        made = with_values(text, values)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(made)
        os.replace(file.name, path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(say("error.cannot_write", path=path, error=error)) from error
