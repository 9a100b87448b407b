"""Which rule files are in force, and whether they changed on disk: for reloading them without a restart."""

from __future__ import annotations

import hashlib
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
        found = []
        own = [] if self._user is None or not self._user.exists() else self._users()
        for path in [*sorted(self._shipped.glob("rules.*.toml")), *own]:
            try:
                stat = path.stat()
            except OSError:  # removed while we looked
                continue
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(found)


def _digests(files: Sequence[Path]) -> str:
    return "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
