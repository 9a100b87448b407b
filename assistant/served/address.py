"""Where a server is and which key opens it. Keys come from the environment or the keyring, and are never written down anywhere."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from assistant.errors import UsageError

KEY_VARIABLE = "PELLUCID_API_KEY"
_OPENAI = "api.openai.com"
_HIDDEN = "•••"


def checked(url: str) -> str:
    """`url` without a slash at its end. Raises UsageError for what is no HTTP address, or has a secret in it (it is logged)."""
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well_formed = False
    if not well_formed or any(c.isspace() or not c.isprintable() for c in url):
        raise UsageError(f"{url!r} is no address of a server: give --base-url like http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(f"an address is logged, so no key may be in it: put the key into {KEY_VARIABLE} or the keyring")
    return url.rstrip("/")


def key_for(url: str) -> str:
    """The key for the server at `url`; empty when there is none: PELLUCID_API_KEY, then (at OpenAI only) OPENAI_API_KEY, then the
    keyring's entry `pellucid` for this address."""
    found = os.environ.get(KEY_VARIABLE) or (os.environ.get("OPENAI_API_KEY") if urlsplit(url).hostname == _OPENAI else None)
    key = (found or _from_keyring(url)).strip()
    if any(not "!" <= c <= "~" for c in key):
        raise UsageError(f"the key for {url} has characters that no key has: set {KEY_VARIABLE} again")
    return key


def _from_keyring(url: str) -> str:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return ""
    try:
        return keyring.get_password("pellucid", url) or ""
    except KeyringError:  # no keyring is running here: the server will say whether it wants a key
        return ""


def without(key: str, text: str) -> str:
    """`text` with the key blotted out: servers repeat keys in their complaints."""
    return text.replace(key, _HIDDEN) if key else text
