"""Turns as CSV: one row a turn, for a spreadsheet that must not take a prompt for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from assistant.audit.export.rows import COLUMNS, flat, turns
from assistant.audit.plain import plain
from assistant.store.ledger import Filter, Ledger


def lines(ledger: Ledger, which: Filter) -> Iterator[str]:
    """The lines of the table; the first begins with a byte order mark, or Excel takes Chinese for Latin."""
    yield "\ufeff" + _line(COLUMNS)
    for turn, _ in turns(ledger, which):
        yield _line(flat(turn).values())


def formula_safe(text: str) -> str:
    """A text that no spreadsheet computes: one that begins like a formula gets an apostrophe before it."""
    return "'" + text if text.lstrip(" \t\r\n").startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def _line(values: Iterable[Any]) -> str:
    buffer = io.StringIO()
    safe = [formula_safe(plain(value)) if isinstance(value, str) else value for value in values]
    csv.writer(buffer, lineterminator="\r\n").writerow(safe)
    return buffer.getvalue()
