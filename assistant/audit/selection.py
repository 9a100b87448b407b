"""Which turns an erasure means, and which pieces of the log repeat what they said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assistant.errors import UsageError
from assistant.store import content
from assistant.store.content import PROMPT, PROMPT_DETAIL, PROMPT_IDS, REPLY, REPLY_DETAIL
from assistant.store.ledger import Ledger

Target = tuple[int, str]
"""A part of a record: what is erased."""

KEEP = ("flagged", "reviewed")
"""What a retention rule can spare."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Turns, and all parts of the log that repeat them."""

    turns: list[str]
    targets: list[Target]


def by_turn(ledger: Ledger, ids: Iterable[str]) -> list[str]:
    """The full ids of turns given by (the beginning of) their ids."""
    return [ledger.turn(id_).id for id_ in ids]


def by_conversation(ledger: Ledger, conversation: str) -> list[str]:
    """All turns of a conversation, in every branch. Raises UsageError when there are none."""
    found = _turns(ledger, "conv = ?", conversation)
    if not found:
        raise UsageError(f"there is no conversation {conversation!r} in the log")
    return found


def by_user(ledger: Ledger, name: str) -> list[str]:
    """All turns written under a login name."""
    return _turns(ledger, "record ->> '$.user' = ?", ledger.pseudonym(name))


def by_pattern(ledger: Ledger, pattern: str) -> list[str]:
    """All turns whose prompt or reply matches a regular expression, without regard to case."""
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from error
    return _by_content(ledger, (PROMPT, REPLY), lambda value: expression.search(value) is not None)


def by_rule(ledger: Ledger, rule: str) -> list[str]:
    """All turns in which a safety rule found something."""
    return _by_content(ledger, (PROMPT_DETAIL, REPLY_DETAIL), lambda value: any(f[1] == rule for f in value.get("findings", ())))


def by_age(ledger: Ledger, before: int, keep: Sequence[str]) -> list[str]:
    """All turns that ended before a time (microseconds since 1970), sparing what `keep` names."""
    where = "ts < ? AND kind IN ('output', 'interrupted')"
    if "flagged" in keep:
        where += " AND verdict = 'allow'"
    if "reviewed" in keep:
        where += " AND NOT EXISTS (SELECT 1 FROM ledger r WHERE r.turn = ledger.turn AND r.kind = 'review')"
    rows = ledger.query(f"SELECT DISTINCT turn FROM ledger WHERE {where} ORDER BY seq", (before,))
    return [turn for (turn,) in rows]


def select(ledger: Ledger, turns: Sequence[str], conversation: str | None = None) -> Selection:
    """Everything to be erased so that nothing of `turns` remains; with `conversation` also its titles.

    A later turn of the same thread was generated from the earlier ones: its prompt ids and its explanations spell them
    out again, so those go too. Raises UsageError when a turn is still being written.
    """
    targets: dict[Target, None] = {}
    for turn in turns:
        if ledger.query("SELECT 1 FROM opened WHERE turn = ?", (turn,)):
            raise UsageError(f"the turn {turn} is still being written: wait, or close the chat first")
        targets |= dict.fromkeys(_kept(ledger, "l.turn = ?", turn))
        for later in _descendants(ledger, turn):
            repeating = f"l.turn = ? AND c.part IN ('{PROMPT_IDS}', 'attribution')"
            targets |= dict.fromkeys(_kept(ledger, repeating, later))
    if conversation is not None:
        targets |= dict.fromkeys(_kept(ledger, "l.kind = 'title' AND l.conv = ?", conversation))
    affected = {turn for turn, kept in ((turn, _kept(ledger, "l.turn = ?", turn)) for turn in turns) if kept}
    return Selection([turn for turn in turns if turn in affected], sorted(targets))


def _turns(ledger: Ledger, where: str, value: str) -> list[str]:
    rows = ledger.query(f"SELECT turn FROM ledger WHERE kind = 'intent' AND {where} ORDER BY seq", (value,))
    return [turn for (turn,) in rows]


def _kept(ledger: Ledger, where: str, value: str) -> list[Target]:
    rows = ledger.query(f"SELECT c.seq, c.part FROM ledger l JOIN content c ON c.seq = l.seq WHERE {where}", (value,))
    return [(seq, part) for seq, part in rows]


def _descendants(ledger: Ledger, turn: str) -> list[str]:
    rows = ledger.query(
        """WITH RECURSIVE later (turn) AS (
          SELECT ?1 UNION SELECT l.turn FROM later JOIN ledger l
          ON l.parent = later.turn AND l.kind = 'intent' AND l.conv = (
            SELECT conv FROM ledger WHERE turn = ?1 AND kind = 'intent')
        ) SELECT turn FROM later WHERE turn <> ?1""",
        (turn,),
    )
    return [id_ for (id_,) in rows]


def _by_content(ledger: Ledger, parts: tuple[str, str], matches: object) -> list[str]:
    assert callable(matches)
    found: dict[str, None] = {}
    last = 0
    while rows := ledger.query(
        """SELECT l.seq, l.turn, c.codec, c.body FROM ledger l JOIN content c ON c.seq = l.seq
        WHERE l.seq > ? AND c.part IN (?, ?) AND l.kind IN ('intent', 'output', 'interrupted')
        ORDER BY l.seq LIMIT 2000""",
        (last, *parts),
    ):
        for seq, turn, codec, body in rows:
            last = seq
            if matches(content.decode(codec, body)):
                found[turn] = None
    return list(found)
