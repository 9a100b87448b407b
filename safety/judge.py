"""From what was found to a verdict: the policy's thresholds and detector actions, the reason, the redacted text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from safety import texts
from safety.language import detect
from safety.pii import Span
from safety.policy import Policy
from safety.rules import Role
from safety.scan import Look
from safety.verdict import Action, Finding, Verdict

_FAMILY = {"secret": "secret", "link": "exfiltration", "hidden": "control", "leak": "attack"}
_SHOWN = 0.01  # scores below are not reported


def family(kind: str) -> str:
    """The category that a detector's find is reported under."""
    return _FAMILY.get(kind, "pii")


def combine(looks: Iterable[Look]) -> Look:
    """Several looks at one text as one: all findings, the highest scores."""
    findings: list[Finding] = []
    spans: list[Span] = []
    scores: dict[str, float] = {}
    places: dict[str, tuple[int, int]] = {}
    for look in looks:
        for finding in look.findings:
            if not any(f.rule == finding.rule and finding.start < f.end and f.start < finding.end for f in findings):
                findings.append(finding)
        spans += [span for span in look.spans if span not in spans]
        for label, score in look.scores.items():
            if score > scores.get(label, 0.0):
                scores[label], places[label] = score, look.places[label]
    return Look(tuple(findings), tuple(spans), scores, places)


def category_scores(look: Look) -> dict[str, float]:
    """One score a category; a rule and the classifier that agree strengthen each other."""
    scores = {label: score for label, score in look.scores.items() if score >= _SHOWN}
    for finding in look.findings:
        learned = look.scores.get(finding.category, 0.0)
        both = 1 - (1 - finding.score) * (1 - learned) if min(finding.score, learned) >= 0.5 else 0.0
        scores[finding.category] = max(scores.get(finding.category, 0.0), finding.score, both)
    return {name: round(score, 3) for name, score in scores.items()}


def hidden_by(policy: Policy, role: Role, spans: Sequence[Span]) -> list[Span]:
    """The spans that the policy redacts."""
    return [span for span in spans if policy.detectors[role, span.kind] is Action.REDACT]


def deciding(policy: Policy, role: Role, scores: Mapping[str, float]) -> tuple[Action, str]:
    """The most severe action that the scores lead to, and the category that leads to it."""
    best, chosen = Action.ALLOW, ""
    for name in sorted(scores, key=lambda n: -scores[n]):
        tiers = policy.tiers.get((role, name))
        action = tiers.action(scores[name]) if tiers else Action.ALLOW
        if action.severity > best.severity:
            best, chosen = action, name
    return best, chosen


def judge(look: Look, policy: Policy, stamp: str, role: Role, text: str, language: str | None, redacted: str | None) -> Verdict:
    """The verdict about `text`. `redacted` is what to pass on when parts have to be hidden."""
    scores = category_scores(look)
    action, category = deciding(policy, role, scores)
    findings = list(look.findings)
    for label, score in look.scores.items():
        caution = policy.tiers[role, label].caution
        if caution is not None and score >= caution:
            findings.append(Finding(label, "classifier", *look.places[label], round(score, 3)))
    hidden: list[str] = []
    for span in look.spans:
        step = policy.detectors[role, span.kind]
        if step is Action.ALLOW:
            continue
        score = 1.0 if step is Action.BLOCK else 0.5
        findings.append(Finding(family(span.kind), span.kind, span.start, span.end, score))
        scores[family(span.kind)] = max(score, scores.get(family(span.kind), 0.0))
        if step.severity > action.severity:
            action, category = step, family(span.kind)
        hidden += [span.kind] if step is Action.REDACT else []
    return Verdict(
        action=action,
        score=max(scores.values(), default=0.0),
        categories=MappingProxyType(dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))),
        findings=tuple(sorted(findings, key=lambda f: (f.start, f.end, f.rule))),
        reason=texts.reason(action, role, category, hidden, language or detect(text)),
        policy=stamp,
        redacted=redacted if action is Action.REDACT else None,
    )
