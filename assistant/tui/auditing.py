"""What the screens ask of `assistant.audit`, in one place: check the log, erase texts, log a judgement.

Imported when first needed, so that a chat in which nobody audits does not pay for it. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from assistant.audit.remarks import Remark

Label = Literal["safe", "unsafe", "unsure"]


@dataclass(frozen=True, slots=True)
class Check:
    """What checking the log gave."""

    sound: bool
    records: int
    summary: str


def check(ledger: Any) -> Check:
    """Check every hash of the log, and the checkpoints kept outside it. Raises LedgerError when it cannot be read."""
    from assistant.audit.verify import verify

    report = verify(ledger)
    return Check(not report.problems, report.size, "; ".join(problem.message for problem in report.problems[:3]))


def redact(ledger: Any, turns: Sequence[str], conversation: str | None, reason: str) -> int:
    """Erase the texts of `turns`, and with `conversation` all of its turns and its titles; the log stays checkable.

    Returns how many turns were erased. Raises LedgerError or UsageError; then nothing was erased.
    """
    from assistant.audit import selection
    from assistant.audit.redact import redact as erase

    chosen = selection.by_conversation(ledger, conversation) if conversation else selection.by_turn(ledger, turns)
    return erase(ledger, selection.select(ledger, chosen, conversation), reason).turns


def note_export(ledger: Any, name: str, filters: Mapping[str, Any]) -> None:
    """Log that texts leave the log for the file `name`, before they do; the words searched for are not logged. Raises LedgerError."""
    form = "jsonl" if name.endswith(".jsonl") else "markdown"
    with ledger.transaction() as appender:
        appender.append("export", {"format": form, **({"filter": dict(filters)} if filters else {}), "texts": True, "by": "audit browser"})


def review(ledger: Any, turn: str, label: Label, note: str = "") -> int:
    """Log what the person logged in thinks of the text that was judged in `turn`, and why.

    Returns the record's number. Raises LedgerError.
    """
    from assistant.audit.review import add_review, login_name

    return add_review(ledger, turn, label, note=note, reviewer=login_name())


def remarks(ledger: Any, turn: str) -> list[Remark]:
    """What was judged and erased of `turn`, and why. Raises LedgerError."""
    from assistant.audit.remarks import remarks as read

    return read(ledger, turn)
