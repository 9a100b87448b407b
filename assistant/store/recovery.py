"""What a dead program left behind: turns that were opened and never closed become `interrupted`, with what was
journalled.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from assistant.store import journal, records, search
from assistant.store.append import Appender
from assistant.store.process import Process, is_alive, tidy
from assistant.store.reading import read_turn
from assistant.turn import Usage

FORGET_PROCESS = "DELETE FROM process WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM opened WHERE process = ?1)"


def abandoned(connection: sqlite3.Connection, database: Path | None, own: str) -> list[str]:
    """The open turns whose program no longer lives, oldest first."""
    rows = connection.execute(
        """SELECT turn, process, coalesce(pid, 0), coalesce(started, '') FROM opened LEFT JOIN process ON id = process
        ORDER BY seq"""
    ).fetchall()
    dead: dict[str, bool] = {own: False}
    for _, id_, pid, started in rows:
        if id_ not in dead:
            dead[id_] = not is_alive(database, Process(id_, pid, started))
    return [turn for turn, id_, _, _ in rows if dead[id_]]


def forget_dead(connection: sqlite3.Connection, database: Path | None) -> None:
    """Remove the signs and rows of dead programs that left no turn open."""
    tidy(database)
    for row in connection.execute("SELECT id, pid, started FROM process WHERE id NOT IN (SELECT process FROM opened)").fetchall():
        if not is_alive(database, Process(*row)):
            connection.execute(FORGET_PROCESS, row[:1])


def close_interrupted(appender: Appender, turn_id: str) -> bool:
    """Close one abandoned turn. False when another program has just done so."""
    with appender.transaction() as connection:
        row = connection.execute("SELECT process FROM opened WHERE turn = ?", (turn_id,)).fetchone()
        if row is None:
            return False
        text, tokens, readable = journal.read(connection, turn_id)
        turn = read_turn(connection, turn_id)
        usage = Usage(prompt_tokens=len(turn.prompt_ids), reply_tokens=len(tokens))
        turn = replace(turn, reply=text, tokens=tokens, finish="interrupted", usage=usage)
        fields, parts = records.outcome(turn)
        if not readable:
            fields["journal"] = "unreadable"
        seq = appender.append("interrupted", fields, parts)
        search.add_to_index(connection, seq, turn.prompt, turn.reply)
        journal.clear(connection, turn_id)
        connection.execute(FORGET_PROCESS, row)
    return True
