"""Receiving a file over HTTP, going on with what is there of it. Imports no torch."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

CHUNK = 1 << 20


def receive(request: urllib.request.Request, path: Path, report: Callable[[int, int], None], *, most: int = 0) -> tuple[Message, int, int]:
    """Bring the answer to `path`, from where the file ends on: (headers, bytes there are now, bytes there should be, 0 if unknown).

    `report(have, total)` after every block; nothing is read beyond `most` bytes. Raises what urllib raises, and keeps what has come.
    """
    have = path.stat().st_size if path.exists() else 0
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=30) as answer:
        if have and answer.status != 206:  # the server starts over
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        with path.open("ab" if have else "wb") as out:
            while (not most or have <= most) and (block := answer.read(CHUNK)):
                out.write(block)
                have += len(block)
                report(have, total)
            out.flush()
            os.fsync(out.fileno())
        return answer.headers, have, total
