"""How a record vouches for a text without containing it.

The record holds a salted hash; text and salt live in the table `content`. When both are deleted, the hash can no longer
be matched against guesses (not even "yes" or "no"), and the chain of records stays whole. Position, part and coding are
hashed too, so that no text can be moved to another place; the body is padded to a bucket, so that hashing reveals no
length by its time.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from hashlib import sha256

SALT_BYTES = 32
_DOMAIN = b"pellucid/content/v1\x00"
_BUCKET = 64
_HEAD = struct.Struct(">QBQ").pack
_PADDING = [bytes(n) for n in range(_BUCKET)]


def new_salt() -> bytes:
    """A fresh salt."""
    return os.urandom(SALT_BYTES)


def commit(seq: int, part: str, codec: str, salt: bytes, body: bytes) -> bytes:
    """The commitment of record `seq` to `body` as its `part`."""
    name, length = _name(part, codec), len(body)
    return sha256(b"".join((_DOMAIN, _HEAD(seq, len(name), length), name, salt, body, _PADDING[-length % _BUCKET]))).digest()


@lru_cache(64)
def _name(part: str, codec: str) -> bytes:
    return f"{part}:{codec}".encode()
