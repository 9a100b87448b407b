"""Server-sent events, as far as chat servers use them: the data of each event, from bytes that may be cut anywhere.

Nothing a server sends can take more memory than `LONGEST`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

LONGEST = 1 << 20
"""Bytes of one event. A token with its candidates has some hundred."""
DONE = "[DONE]"


class MalformedStream(ValueError):
    """The bytes are no stream of chat events. The message says what they are instead."""


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a stream up to `[DONE]` or its end. Raises MalformedStream."""
    held = b""
    data: list[bytes] = []
    async for piece in pieces:
        held += piece
        *lines, held = held.split(b"\n")
        if len(held) + sum(map(len, data)) > LONGEST:
            raise MalformedStream("an event without end")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                raise MalformedStream("something that is no event stream")
            elif not line and data:
                event, data = _parsed(data), []
                if event is None:
                    return
                yield event
    if held.strip().startswith(b"data:"):
        data.append(held.strip()[5:].strip())
    if data and (event := _parsed(data)) is not None:
        yield event


def _parsed(data: list[bytes]) -> dict[str, Any] | None:
    """The object of an event; None for `[DONE]`."""
    text = b"\n".join(data)
    if text == DONE.encode():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedStream("an event that is not JSON") from error
    if not isinstance(value, dict):
        raise MalformedStream("an event that is no object")
    return value
