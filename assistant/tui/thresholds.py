"""From which score a category was cautioned or blocked, for the card that shows a verdict. Reads the policy file once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from safety.policy import Policy, PolicyError, load_policy
from safety.verdict import Action, Verdict


@cache
def policy_of(name: str) -> Policy | None:
    """The policy called so; None when it is not at hand."""
    try:
        return load_policy(name)
    except PolicyError:  # the verdict is older than the policies at hand: then it is shown without thresholds
        return None


def limits(verdict: Verdict, role: Literal["prompt", "response"]) -> Mapping[str, float]:
    """Per category of `verdict`, the score that its action begins at; empty when the policy is not at hand."""
    policy = policy_of(verdict.policy.partition("@")[0])
    if policy is None:
        return {}
    out = {}
    for name in verdict.categories:
        tiers = policy.tiers.get((role, name))
        limit = None if tiers is None else tiers.block if verdict.action is Action.BLOCK else tiers.caution
        if limit is not None:
            out[name] = limit
    return out
