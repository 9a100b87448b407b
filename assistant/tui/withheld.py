"""A reply that moderation withdrew, for the person who insists: only where the policy allows it, and never without a record of it."""

from __future__ import annotations

from assistant.errors import UsageError
from assistant.tui.backend import SessionLike
from assistant.tui.text import say
from assistant.tui.thresholds import limits, policy_of
from safety.verdict import Action, Verdict

EVENT = "reply.show"
"""The kind of the record."""


def may_reveal(verdict: Verdict) -> bool:
    """Whether the policy that blocked the reply lets it be shown: every category that reached its block must be one of those it names."""
    policy = policy_of(verdict.policy.partition("@")[0])
    if policy is None or verdict.action is not Action.BLOCK:
        return False
    reached = limits(verdict, "response")
    blocked = {name for name, score in verdict.categories.items() if name in reached and score >= reached[name]}
    blocked |= {finding.category for finding in verdict.findings if finding.score >= reached.get(finding.category, 0.0)}
    return bool(blocked) and blocked <= policy.show_anyway


def reveal(session: SessionLike, turn_id: str) -> str:
    """The words that were withdrawn in this turn, once the log says that they are shown.

    Raises UsageError when nothing was withdrawn, the policy does not allow it, or the words were erased; LedgerError when the log cannot
    be written: then nothing is shown.
    """
    turn = session.ledger.turn(turn_id)
    verdict = turn.output_verdict
    if turn.finish != "blocked_output" or verdict is None:
        raise UsageError(say("error.nothing_withheld"))
    if not may_reveal(verdict):
        raise UsageError(say("error.may_not_reveal", policy=verdict.policy.partition("@")[0]))
    text = "".join(token.text for token in turn.tokens)
    if not text:
        raise UsageError(say("error.withheld_is_gone"))
    session.ledger.record_event(EVENT, {"turn": turn.id, "conv": turn.conversation, "category": verdict.category, "policy": verdict.policy})
    return text
