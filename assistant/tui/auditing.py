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
    problems = list(getattr(report, "problems", ()) or getattr(report, "findings", ()))
    sound = bool(getattr(report, "ok", not problems))
    records = int(getattr(report, "records", getattr(report, "size", 0)))
    return Check(sound, records, "; ".join(str(problem) for problem in problems[:3]))


def redact(ledger: Any, turns: Sequence[str], reason: str) -> int:
    """Erase the texts of `turns`; the log stays checkable. Returns how many were erased. Raises LedgerError."""
    erase = _function("redact", "redact")
    for turn in turns:
        erase(ledger, turn, reason=reason)
    return len(turns)


def _function(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"assistant.audit.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise LedgerError(say("error.no_audit", what=name)) from error
