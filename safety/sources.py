"""A benchmark file from a path, or from an address with the checksum that it must have."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

_MOST = 500_000_000
_CHUNK = 1 << 20


def resolve(source: str, folder: Path) -> Path:
    """The file of a path, or of `https://…/file#sha256=HEX`, fetched into `folder` once. Raises ValueError that says
    what to do."""
    if not source.startswith(("http://", "https://", "file://")):
        return Path(source).expanduser()
    address, fragment = urldefrag(source)
    digest = fragment.removeprefix("sha256=").lower()
    if len(digest) != 64 or not fragment.startswith("sha256="):
        raise ValueError(f"{address}: add its checksum, as {address}#sha256=…, so that the figures are about a known file")
    name = Path(urlsplit(address).path).name or "benchmark"
    target = folder / f"{digest[:16]}-{name}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(address, target.with_suffix(target.suffix + ".part"))
        target.with_suffix(target.suffix + ".part").replace(target)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        target.unlink()
        raise ValueError(f"{address}: the file has the SHA-256 {found}, not the one given: check the address and the checksum")
    return target


def _fetch(address: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer, target.open("wb") as out:
            held = 0
            while block := answer.read(_CHUNK):
                held += len(block)
                if held > _MOST:
                    raise ValueError(f"{address}: this is larger than {_MOST // 1_000_000} MB: fetch it yourself and give its path")
                out.write(block)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ValueError(f"{address}: cannot be fetched ({getattr(error, 'reason', error)}): check the network, or give a path") from error
