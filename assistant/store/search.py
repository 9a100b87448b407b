"""Full-text search in prompts and replies of every branch, in Chinese and English, newest first or best first."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from assistant.errors import UsageError
from assistant.language import clean_intake
from assistant.store import canonical, segment
from assistant.store.content import PROMPT, REPLY
from assistant.store.listing import Filter

Side = Literal["prompt", "reply"]
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')
_BEFORE, _AFTER = 24, 76
"""Characters of the text shown before and after the first match."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One turn that was found."""

    seq: int
    """Pass it as `before` to get the hits that follow."""
    turn: str
    conversation: str
    created_us: int
    side: Side
    """Where the first match is."""
    snippet: str
    matches: tuple[tuple[int, int], ...]
    """The matching characters `[start, end)` of `snippet`."""
    verdict: str
    language: str


@dataclass(frozen=True, slots=True)
class Term:
    """One word or phrase of a query."""

    words: list[str]
    prefix: bool
    wanted: bool


def parse(query: str) -> list[Term]:
    """The terms of a query: words, "phrases in quotes", begin*, and -unwanted. Raises UsageError when it holds no
    word.
    """
    terms: list[Term] = []
    for minus, quoted, plain in _TERM.findall(clean_intake(query)):
        text = quoted or plain
        found = [word.text for word in segment.words(text)]
        if found:
            terms.append(Term(found, prefix=bool(plain) and text.endswith("*"), wanted=not minus))
    if not any(term.wanted for term in terms):
        raise UsageError("the search holds no word: give a word, or a phrase in quotes")
    return terms


def expression(terms: list[Term], side: Side | None) -> str:
    """The terms in the index's own language."""

    def one(term: Term) -> str:
        return '"' + " ".join(term.words) + '"' + ("*" if term.prefix else "")

    wanted = " AND ".join(one(t) for t in terms if t.wanted)
    unwanted = "".join(f" NOT {one(t)}" for t in terms if not t.wanted)
    return (f"{side} : " if side else "") + f"({wanted}{unwanted})"


def run(
    connection: sqlite3.Connection,
    query: str,
    *,
    limit: int,
    before: int | None,
    which: Filter,
    side: Side | None,
    ranked: bool,
) -> list[Hit]:
    """One page of hits. Ranked hits come best first and have no following page."""
    terms = parse(query)
    where, values = "fts MATCH ?", [expression(terms, side)]
    if before is not None:
        where += " AND fts.rowid < ?"
        values.append(before)  # type: ignore[arg-type]
    order = "rank" if ranked else "fts.rowid DESC"
    if which.is_empty:
        sql = f"SELECT fts.rowid FROM fts WHERE {where} ORDER BY {order} LIMIT ?"
    else:
        condition, more = which.where()
        # CROSS JOIN: SQLite must walk the matches in their order and look the records up, not the other way round
        sql = (
            f"SELECT fts.rowid FROM fts CROSS JOIN ledger ON ledger.seq = fts.rowid WHERE {where} AND {condition} ORDER BY {order} LIMIT ?"
        )
        values += more
    rows = connection.execute(sql, (*values, limit)).fetchall()
    return [_hit(connection, seq, terms, side) for (seq,) in rows]


def _hit(connection: sqlite3.Connection, seq: int, terms: list[Term], side: Side | None) -> Hit:
    record = canonical.loads(connection.execute("SELECT record FROM ledger WHERE seq = ?", (seq,)).fetchone()[0])
    texts = indexed_texts(connection, seq, record["turn"])
    patterns = [segment.pattern(t.words, t.prefix) for t in terms if t.wanted]
    first: tuple[Side, str, list[tuple[int, int]]] | None = None
    for name in ("prompt", "reply"):
        if side not in (None, name):
            continue
        text = texts[0] if name == "prompt" else texts[1]
        folded = segment.fold(text)
        spans = [match.span() for pattern in patterns for match in pattern.finditer(folded)]
        if first is None or (spans and not first[2]):
            first = ("prompt" if name == "prompt" else "reply", text, sorted(spans))
    assert first is not None
    snippet, matches = _cut(first[1], first[2])
    return Hit(seq, record["turn"], record["conv"], record["ts"], first[0], snippet, matches, record["verdict"], record["lang"])


def indexed_texts(connection: sqlite3.Connection, seq: int, turn: str) -> tuple[str, str]:
    """Prompt and reply as they stand now in the index row of the closing record `seq`; erased texts are empty."""
    opened = connection.execute("SELECT seq FROM ledger WHERE turn = ? AND kind = 'intent'", (turn,)).fetchone()
    return _text(connection, opened[0] if opened else 0, PROMPT), _text(connection, seq, REPLY)


def add_to_index(connection: sqlite3.Connection, seq: int, prompt: str, reply: str) -> None:
    """Index a turn under its closing record, inside the caller's transaction."""
    prompt, reply = clean_intake(prompt), clean_intake(reply)  # as `content` has them, or they could not be taken out
    connection.execute(
        "INSERT INTO fts (rowid, prompt, reply) VALUES (?, ?, ?)",
        (seq, segment.for_index(prompt), segment.for_index(reply)),
    )


def take_from_index(connection: sqlite3.Connection, seq: int, prompt: str, reply: str) -> None:
    """The inverse of `add_to_index`; the texts must be the very ones that were added."""
    connection.execute(
        "INSERT INTO fts (fts, rowid, prompt, reply) VALUES ('delete', ?, ?, ?)",
        (seq, segment.for_index(prompt), segment.for_index(reply)),
    )


def _text(connection: sqlite3.Connection, seq: int, part: str) -> str:
    row: Any = connection.execute("SELECT body FROM content WHERE seq = ? AND part = ?", (seq, part)).fetchone()
    return bytes(row[0]).decode("utf-8", "replace") if row else ""


def _cut(text: str, spans: list[tuple[int, int]]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A piece of the text round the first match, and the matches that lie in it."""
    start = max(0, spans[0][0] - _BEFORE) if spans else 0
    end = min(len(text), (spans[0][1] if spans else 0) + _AFTER)
    head, tail = "…" if start else "", "…" if end < len(text) else ""
    inside = [(max(a, start), min(b, end)) for a, b in spans if a < end and b > start]
    shift = len(head) - start
    return head + text[start:end] + tail, tuple((a + shift, b + shift) for a, b in dict.fromkeys(inside))
