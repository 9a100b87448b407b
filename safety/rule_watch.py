"""Which rule files are in force, and whether they changed on disk: for reloading them without a restart."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from safety.rules import RuleError

Signature = tuple[tuple[str, int, int], ...]


class RuleWatch:
    """The shipped rule files of a folder and the user's own, a file or a folder of them. Looking costs a few stat calls."""

    def __init__(self, shipped: Path, user: Path | None, others: Sequence[Path]) -> None:
        """`others` are files that the fingerprint covers but that are not watched: policy and weights."""
        self._shipped, self._user = shipped, user
        self._others = _digests(others)
        self._seen = self._signature()

    def files(self) -> list[Path]:
        """All rule files, shipped ones first. Raises RuleError when the user's are gone."""
        return sorted(self._shipped.glob("rules.*.toml")) + self._users()

    def changed(self) -> bool:
        """Whether a file was written, added or removed since the last call."""
        now = self._signature()
        before, self._seen = self._seen, now
        return now != before

    def fingerprint(self) -> str:
        """Eight hexadecimal digits of everything that verdicts depend on."""
        return hashlib.sha256((self._others + _digests(self.files())).encode()).hexdigest()[:8]

    def _users(self) -> list[Path]:
        if self._user is None:
            return []
        if not self._user.exists():
            raise RuleError(f"{self._user}: there are no such rules; correct the path")
        return sorted(self._user.glob("*.toml")) if self._user.is_dir() else [self._user]

    def _signature(self) -> Signature:
        """Of every rule file. Asked before every prompt, so it takes the short way through the operating system."""
        found = _stats(self._shipped, "rules.")
        if self._user is not None:
            found += _stats(self._user, "") if self._user.is_dir() else _stat(str(self._user))
        return tuple(sorted(found))


def _stats(folder: Path, start: str) -> list[tuple[str, int, int]]:
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(start) and entry.name.endswith(".toml"):
                found += _stat(entry.path)
    return found


def _stat(file: str) -> list[tuple[str, int, int]]:
    """Path, time and size; nothing for a file that was removed while we looked."""
    try:
        stat = os.stat(file)
    except OSError:
        return []
    return [(file, stat.st_mtime_ns, stat.st_size)]


def _digests(files: Sequence[Path]) -> str:
    return "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
