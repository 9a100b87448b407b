"""Where an export goes: a private file that appears only when it is complete, or straight into a device or pipe that is there already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from assistant.errors import PellucidError


class ExportError(PellucidError):
    """The export could not be written; nothing was left behind."""

    exit_code = 3


def remove(draft: Path) -> None:
    """Remove a draft, where there is one: a place that cannot be written refuses even to remove what is not there."""
    if draft.exists():
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A text file (or one of bytes) for `path`, readable by its owner alone, put in its place at the end. Raises ExportError.

    What is no ordinary file (`/dev/stdout`, a named pipe) is written to and never replaced.
    """
    straight = path.exists() and not path.is_file()
    draft = path if straight else path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = os.open(draft, os.O_WRONLY | (0 if straight else os.O_CREAT | os.O_TRUNC), 0o600)
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror or error}): choose another place with -o") from error
    try:
        with os.fdopen(file, "wb") if binary else os.fdopen(file, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            if not straight:
                os.fsync(stream.fileno())
        if not straight:
            os.replace(draft, path)
    except OSError as error:
        message = f"{path} could not be written ({error.strerror or error}): free some space or use another place"
        raise ExportError(message) from error
    finally:
        if not straight:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()
