"""The identity of a stored model: the SHA-256 of its file, or of the list of its files with theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of_files(folder: Path, names: Iterable[str]) -> str:
    """The SHA-256 of `sha256sum`'s lines for these files, sorted by name: the same wherever the folder lies."""
    lines = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()
