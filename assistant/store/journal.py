"""The part of a reply that is being written, so that a program that dies loses at most half a second of it (where it serves many at once,
somewhat more, see `TOGETHER`).

Outside the hashed chain, because it changes; gone as soon as the turn is closed. Each step holds only what is new.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from assistant.errors import LedgerError
from assistant.language import clean_intake
from assistant.store.content import decode, pack_tokens, unpack_tokens
from assistant.turn import ReplyToken

SECONDS = 0.5
"""A reply is written down at most this often."""
TOGETHER = 4
"""More replies at once than this take turns: all together they are written down no more often than so many are."""


@dataclass(slots=True)
class Progress:
    """How much of one reply is in the journal."""

    step: int = 0
    text: str = ""
    tokens: int = 0
    written_at: float = float("-inf")

    def is_due(self, replies: int = 1) -> bool:
        """Whether it is time to write again, where so many `replies` are being written at once: each write waits for the disk."""
        return time.monotonic() - self.written_at >= SECONDS * max(1.0, replies / TOGETHER)


def write(connection: sqlite3.Connection, turn: str, progress: Progress, text: str, tokens: Sequence[ReplyToken]) -> None:
    """Add what is new since the last time. One statement, one transaction of its own."""
    progress.written_at = time.monotonic()
    text = clean_intake(text)
    if not text.startswith(progress.text):
        connection.execute("DELETE FROM journal WHERE turn = ?", (turn,))
        progress.text, progress.tokens = "", 0
    new = tokens[progress.tokens :]
    body = zlib.compress(json.dumps(pack_tokens(new), separators=(",", ":")).encode(), 1)
    connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (turn, progress.step, text[len(progress.text) :], body))
    progress.step, progress.text, progress.tokens = progress.step + 1, text, len(tokens)


def read(connection: sqlite3.Connection, turn: str) -> tuple[str, tuple[ReplyToken, ...], bool]:
    """What was written of a reply: text, tokens, and whether all tokens could be read."""
    text, tokens = "", ()  # type: tuple[str, tuple[ReplyToken, ...]]
    readable = True
    for piece, body in connection.execute("SELECT text, tokens FROM journal WHERE turn = ? ORDER BY step", (turn,)).fetchall():
        text += piece
        try:
            tokens += unpack_tokens(decode("zjson", body), len(tokens))
        except LedgerError:
            readable = False
    return text, tokens, readable


def clear(connection: sqlite3.Connection, turn: str) -> None:
    """Forget the journal of a turn that is closed."""
    connection.execute("DELETE FROM journal WHERE turn = ?", (turn,))
    connection.execute("DELETE FROM opened WHERE turn = ?", (turn,))
