"""How much one client may ask: requests a minute, bytes a request, replies at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from assistant.served.api_requests import BadRequest

_REMEMBERED = 10_000
_SWALLOWED, _SWALLOW_SECONDS = 16, 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server allows."""

    per_minute: int = 120
    """Requests of one key; 0 for any number."""
    body: int = 1_000_000
    """Bytes of one request."""
    body_seconds: float = 30.0
    """How long a request may take to arrive."""
    at_once: int = 64
    """Replies in the making, waiting ones included."""


class RateLimit:
    """A token bucket a client: as many requests as a minute allows at once, then as they trickle in again."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = per_minute / 60, clock
        self._most = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Seconds until `client` may ask again; 0 when it may now, which then counts."""
        if not self._rate:
            return 0.0
        now = self._clock()
        left, at = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - at) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, as long as it is neither too long nor too slow. Raises BadRequest; nothing beyond the limit is kept."""
    too_long = BadRequest(f"the body is longer than {limits.body} bytes: send less", status=413)
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limits.body:
        await _swallow(request, limits)
        raise too_long

    async def collect() -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limits.body:
                parts.clear()
                await _swallow(request, limits)
                raise too_long
            parts.append(part)
        return b"".join(parts)

    try:
        return await asyncio.wait_for(collect(), limits.body_seconds)
    except TimeoutError:
        raise BadRequest("the body took too long to arrive: send it again", status=408) from None
    except ClientDisconnect:
        raise BadRequest("the client left", status=499) from None


async def _swallow(request: Request, limits: Limits) -> None:
    """Read on a little and forget it: a client that is still sending would otherwise see a reset instead of the answer."""

    async def read() -> None:
        size = 0
        async for part in request.stream():
            if (size := size + len(part)) > _SWALLOWED * limits.body:
                return

    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        await asyncio.wait_for(read(), _SWALLOW_SECONDS)
