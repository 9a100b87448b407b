"""Erasable content: the parts of a turn that may have to disappear one day, and how each is written as bytes.

A `Part` is a name, a coding and a body. Everything that repeats or betrays what was said belongs here: the texts, the
token ids, the log-probabilities, what the filter found. Bodies come from files that others may have written, so
decoding has limits.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assistant.errors import LedgerError
from assistant.language import clean_intake
from assistant.turn import Candidate, ReplyToken

Codec = Literal[
    "text",  # UTF-8
    "json",  # JSON
    "zjson",  # JSON, deflated
    "bytes",  # as given
]

PROMPT = "prompt"
PROMPT_DETAIL = "prompt_detail"
"""System prompt, stop strings, notices, and what the filter found in the text."""
PROMPT_IDS = "prompt_ids"
"""The token ids as fed: they repeat the turns before this one, and go when one of those is erased."""
REPLY = "reply"
REPLY_DETAIL = "reply_detail"
"""What moderation found in the reply."""
TOKENS = "tokens"
"""The reply's tokens with log-probabilities and candidates: the heaviest part, read only when asked for."""
_LONGEST = 256 << 20
"""No body unpacks to more than this."""


@dataclass(frozen=True, slots=True)
class Part:
    """One erasable piece of a record."""

    name: str
    codec: str
    body: bytes


def text_part(name: str, text: str) -> Part:
    """A text as a part."""
    return Part(name, "text", clean_intake(text).encode())


def json_part(name: str, value: Any) -> Part:
    """Data as a part, deflated when that pays."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Part(name, "zjson", zlib.compress(body, 6)) if len(body) > 400 else Part(name, "json", body)


def as_part(name: str, value: str | bytes) -> Part:
    """A text or bytes as a part."""
    return text_part(name, value) if isinstance(value, str) else Part(name, "bytes", bytes(value))


def decode(codec: str, body: bytes) -> Any:
    """The value of a part. Raises LedgerError when the body is not of that coding."""
    try:
        if codec == "text":
            return body.decode()
        if codec == "json":
            return json.loads(body)
        if codec == "zjson":
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(body, _LONGEST)
            if unpacker.unconsumed_tail:
                raise ValueError("it unpacks to too much")
            return json.loads(plain)
        if codec == "bytes":
            return body
        raise ValueError(f"the coding {codec!r} is not known")
    except (ValueError, zlib.error, RecursionError) as error:
        raise LedgerError(f"a content of the log cannot be read ({error}): run `pellucid audit verify`") from error


def pack_tokens(tokens: Sequence[ReplyToken]) -> list[list[Any]]:
    """Tokens as short JSON rows: id, text, log-probability, entropy (null where not known), candidates, and the probe's risk if any."""
    return [
        [
            t.id, t.text, _known(t.logprob), _known(t.entropy), [[c.id, c.text, c.logprob] for c in t.candidates],
            *([] if t.risk is None else [t.risk]),
        ]
        for t in tokens
    ]  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def unpack_tokens(rows: Any, start: int = 0) -> tuple[ReplyToken, ...]:
    """The inverse of `pack_tokens`, counting from `start`. Raises LedgerError on rows that are no tokens."""
    try:
        return tuple(
            ReplyToken(
                index, int(id_), str(text), _number(logprob), _number(entropy),
                tuple(Candidate(int(i), str(t), float(p)) for i, t, p in candidates),
                *(float(value) for value in risk[:1]),
            )
            for index, (id_, text, logprob, entropy, candidates, *risk) in enumerate(rows, start)
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise LedgerError(f"the tokens of a reply cannot be read ({error}): run `pellucid audit verify`") from error
