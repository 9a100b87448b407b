"""Answers that come in one piece, and complaints with an error status: no server can make them larger than is good for this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

LONGEST_ANSWER = 8 << 20
"""Bytes of a plain answer. A list of some thousand models, or 32,000 tokens with their log-probabilities, has 2 MB."""
_LONGEST_COMPLAINT = 1 << 16
"""Bytes that are read of what comes with an error status; the rest is left."""


class TooLong(ValueError):
    """A plain answer has more than `LONGEST_ANSWER` bytes."""


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """The pieces joined. Raises TooLong as soon as they are too many."""
    read = bytearray()
    async for piece in pieces:
        read += piece
        if len(read) > LONGEST_ANSWER:
            raise TooLong
    return bytes(read)


def value(data: bytes) -> Any:
    """The JSON value in `data`; None for anything else."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


async def cut_complaint(response: Any) -> None:
    """Have no more than `_LONGEST_COMPLAINT` bytes be read of a response that reports an error.

    The client reads it whole before anybody else sees it, through `aiter_bytes` whatever HTTP library is underneath.
    """
    if response.status_code < 400:
        return
    pieces = response.aiter_bytes

    async def cut(*arguments: Any) -> AsyncIterator[bytes]:
        left = _LONGEST_COMPLAINT
        async with aclosing(pieces(*arguments)) as body:
            async for piece in body:
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    break
        await response.aclose()

    response.aiter_bytes = cut
