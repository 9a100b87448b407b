"""A model file as memory: mapped, not read."""

from __future__ import annotations

import mmap
from pathlib import Path

from assistant.errors import ModelError


def map_file(path: Path, error: type[ModelError]) -> mmap.mmap:
    """The bytes of a file, read-only. Raises `error` when it is empty or cannot be opened."""
    try:
        with path.open("rb") as handle:
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise error(f"{path} is empty: fetch the model again") from None
    except OSError as reason:
        raise error(f"cannot open the model file {path}: {reason.strerror or reason}") from reason
