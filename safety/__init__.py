"""What may be asked and what may be said: intake, rules, classifier, policy, streaming moderation. Knows nothing of
the assistant."""

from safety.verdict import Action, Finding, Verdict

__all__ = ["Action", "Finding", "Verdict"]
