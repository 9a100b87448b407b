"""What the screens ask of `assistant.audit`, in one place: check the log, erase texts. Imported when first needed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assistant.errors import LedgerError
from assistant.tui.text import say


@dataclass(frozen=True, slots=True)
class Check:
    """What checking the log gave."""

    sound: bool
    records: int
    summary: str


def check(ledger: Any) -> Check:
    """Check every hash of the log. Raises LedgerError when that cannot be done."""
    report = _function("verify", "verify")(ledger)
    return Check(not report.problems, report.size, "; ".join(problem.message for problem in report.problems[:3]))


def redact(ledger: Any, turns: Sequence[str], reason: str) -> int:
    """Erase the texts of `turns`; the log stays checkable. Returns how many were erased. Raises LedgerError."""
    erase = _function("redact", "redact")
    for turn in turns:
        erase(ledger, turn, reason=reason)
    return len(turns)


def review(ledger: Any, turn: str, label: str) -> int:
    """Log what a person thinks of the decision about `turn`. Returns the record's number. Raises LedgerError."""
    number: int = ledger.record_event("review", {"turn": turn, "label": label})
    return number


def _function(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"assistant.audit.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise LedgerError(say("error.no_audit", what=name)) from error
