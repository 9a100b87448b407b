"""The part of a reply that is being written, so that a program that dies loses at most half a second of it. Where it serves many at once,
all of them are written down together: the disk is waited for once.

Outside the hashed chain, because it changes; gone as soon as the turn is closed. Each step holds only what is new.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assistant.errors import LedgerError
from assistant.language import clean_intake
from assistant.store.content import decode, pack_tokens, unpack_tokens
from assistant.turn import ReplyToken

SECONDS = 0.5
"""Replies are written down at most this often."""


@dataclass(slots=True)
class Progress:
    """How much of one reply is in the journal, and how far it has come."""

    step: int = 0
    text: str = ""
    tokens: int = 0
    latest: tuple[str, Sequence[ReplyToken], int] | None = None
    """Text, tokens, and how many of them belong to the text; None where there is nothing new."""
    closed: bool = False


def write(connection: sqlite3.Connection, replies: Mapping[str, Progress]) -> None:
    """Add what is new of each turn's reply since the last time; all of it or nothing."""
    written: list[tuple[Progress, Progress]] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for turn, progress in replies.items():
            if progress.latest is not None and not progress.closed:
                written.append((progress, _write(connection, turn, progress, *progress.latest)))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    for progress, now in written:
        progress.step, progress.text, progress.tokens = now.step, now.text, now.tokens
        if progress.latest is now.latest:
            progress.latest = None


def _write(connection: sqlite3.Connection, turn: str, before: Progress, text: str, tokens: Sequence[ReplyToken], count: int) -> Progress:
    latest, text, start = before.latest, clean_intake(text), len(before.text)
    first = before.tokens
    if not text.startswith(before.text):
        connection.execute("DELETE FROM journal WHERE turn = ?", (turn,))
        start = first = 0
    body = zlib.compress(json.dumps(pack_tokens(tokens[first:count]), separators=(",", ":")).encode(), 1)
    connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (turn, before.step, text[start:], body))
    return Progress(before.step + 1, text, count, latest)


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
