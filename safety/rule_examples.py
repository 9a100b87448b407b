"""The examples of the rules, tried: `pellucid safety rules test` and the test suite both ask here."""

from __future__ import annotations

from collections.abc import Sequence

from safety.normalize import base_view
from safety.rules import Role, Rule, find

_ACTS = 0.5  # a rule below this score changes nothing, so its matches do no harm


def failures(rules: Sequence[Rule]) -> list[str]:
    """One sentence for each example that its rule misses, and for each counter-example that any rule would act on."""
    found = []
    for rule in rules:
        role: Role = "response" if rule.scope == "response" else "prompt"
        for text in rule.match:
            if not find([rule], base_view(text), role):
                found.append(f"{rule.id} does not match its example {text!r}")
        for text in rule.nomatch:
            acting = {m.rule.id for m in find(rules, base_view(text), role) if m.rule.score >= _ACTS}
            found += [f"{other} matches {text!r}, which {rule.id} names as harmless" for other in sorted(acting)]
    return found
