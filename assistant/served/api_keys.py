"""Who may use the server: one key a person, of which only the hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tomllib
from pathlib import Path

from assistant import paths
from assistant.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Keys:
    """Names and the SHA-256 of their keys, in `api-keys.toml` beside the settings (mode 0600)."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises UsageError when the file cannot be understood."""
        self.path = path or paths.config_file().with_name("api-keys.toml")
        try:
            table = tomllib.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            table = {}
        except (OSError, ValueError) as error:
            raise UsageError(f"the file of keys {self.path} cannot be read ({error}): mend it, or delete it and add keys again") from error
        self._hashes = {name: value for name, value in table.items() if isinstance(value, str)}

    @property
    def names(self) -> list[str]:
        """Everybody who has a key."""
        return sorted(self._hashes)

    def add(self, name: str, *, keep: bool = True) -> str:
        """A new key for `name`, which replaces an older one; shown this once. Raises UsageError for what cannot be a name."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a name: use letters, digits, dots and dashes")
        key = "pk-" + secrets.token_urlsafe(32)
        self._hashes[name] = _hashed(key)
        if keep:
            self._save()
        return key

    def remove(self, name: str) -> None:
        """Take a key away. Raises UsageError when there is none."""
        if self._hashes.pop(name, None) is None:
            raise UsageError(f"nobody called {name!r} has a key: see `pellucid serve-api --list-keys`")
        self._save()

    def owner(self, key: str) -> str | None:
        """Whose key this is; None for nobody's. Takes the same time for every wrong key."""
        given, found = _hashed(key), None
        for name, kept in self._hashes.items():
            if hmac.compare_digest(kept, given):
                found = name
        return found

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.path.with_suffix(".new")
        text = "# names and the SHA-256 of their keys: `pellucid serve-api --add-key NAME`\n"
        text += "".join(f'"{name}" = "{value}"\n' for name, value in sorted(self._hashes.items()))
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(self.path)


def _hashed(key: str) -> str:
    # the keys are 256 random bits: there is nothing to guess, so a plain hash is enough
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
