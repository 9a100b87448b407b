"""How a record vouches for a text without containing it.

The record holds a salted hash; text and salt live in the table `content`. When both are deleted, the hash can no longer
be matched against guesses (not even "yes" or "no"), and the chain of records stays whole. Position, part and coding are
hashed too, so that no text can be moved to another place; the body is padded to a bucket, so that hashing reveals no
length by its time.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256

SALT_BYTES = 32
_DOMAIN = b"pellucid/content/v1\x00"
_BUCKET = 64


def new_salt() -> bytes:
    """A fresh salt."""
    return os.urandom(SALT_BYTES)


def commit(seq: int, part: str, codec: str, salt: bytes, body: bytes) -> bytes:
    """The commitment of record `seq` to `body` as its `part`."""
    name = f"{part}:{codec}".encode()
    head = struct.pack(">QBQ", seq, len(name), len(body)) + name + salt
    return sha256(_DOMAIN + head + body + bytes(-len(body) % _BUCKET)).digest()
