"""One byte form for every record, so that its hash means something.

Canonical JSON: sorted keys, no spaces, UTF-8, and no floating-point numbers (they print differently from one program to
the next). Measured values are whole millionths; a number that must come back exactly (temperature, top-p) is its
decimal text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from assistant.language import clean_intake

Record = dict[str, Any]
_READ = json.JSONDecoder().raw_decode
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)  # fmt: skip


def encode(record: Mapping[str, Any]) -> str:
    """The canonical text of a record. Floats become their shortest decimal text, strings lose NUL and lone
    surrogates.
    """
    return _ENCODER.encode(_plain(record))


def encode_plain(record: Mapping[str, Any]) -> str:
    """`encode` for a record that holds nothing but what `plain` gives: quicker where there are a million."""
    return _ENCODER.encode(record)


def plain(record: Mapping[str, Any]) -> Record:
    """`record` with everything that canonical JSON does not have replaced by what stands for it."""
    return {str(key): _plain(value) for key, value in record.items()}


def decode(text: str) -> Record:
    """The record of a canonical text. Raises ValueError when `text` is not exactly what `encode` writes."""
    record = _STRICT(text)
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    # what was parsed holds nothing that `plain` would replace, but for strings: whether those do shows in the text
    as_it_is = "\\u0000" not in text and clean_intake(text) == text
    if (encode_plain(record) if as_it_is else encode(record)) != text:  # also where a key appears twice
        raise ValueError("not in canonical form")
    return record


def loads(text: str | bytes) -> Record:
    """The record of a text that is known to be canonical: nothing is checked."""
    record: Record = _READ(text.decode() if isinstance(text, bytes) else text)[0]
    return record


def loads_many(texts: Sequence[bytes]) -> list[Record]:
    """`loads` of many texts at once, in a third less time: the parser meets every key again. Raises ValueError when one is no JSON."""
    records: list[Record] = json.loads(b"[" + b",".join(texts) + b"]")
    if len(records) != len(texts):
        raise ValueError("one of them is not a single value")
    return records


def micro(value: float) -> int:
    """`value` in whole millionths; what is no number counts as 0."""
    return round(value * 1_000_000) if math.isfinite(value) else 0


def unmicro(value: int) -> float:
    """The inverse of `micro`."""
    return value / 1_000_000


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return clean_intake(value)
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {clean_intake(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(item) for item in items]
    if isinstance(value, bytes):
        return value.hex()
    return clean_intake(str(value))  # paths, enumerations, dates


def _refuse(text: str) -> Any:
    raise ValueError(f"the number {text[:20]} is not a whole number")


_STRICT = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse).decode
