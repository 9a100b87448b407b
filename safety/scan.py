"""One look at one text: rules on every view of it, exact detectors, structure, classifier. Finds, decides nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from safety.anchors import AnchorIndex
from safety.decode import decoded_views, hidden_spans
from safety.ensemble import Ensemble
from safety.language import detect
from safety.links import find_leaking_links
from safety.normalize import View, base_view, plain_view, squeezed_view
from safety.pii import Span, find_pii
from safety.rules import Match, Role, Rule, find, find_squeezed, squeezable
from safety.secrets import find_secrets
from safety.verdict import Finding

_CONTROL = re.compile(r"\x1b[\[\]PX^_()]|[\x90\x9b\x9d]|[\u202d\u202e]|\x1b\\")
_TURN = re.compile(r"(?m)^\s{0,4}(?:user|human|assistant|ai|bot|system|model|用户|助手|人类|问|答|系统)\s{0,2}\d{0,3}\s?[::]")
_MANY = 16
_LETTER = re.compile(r"[^\W\d_]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_FEWEST = 8  # letters, a Chinese character counting as two
_UNREADABLE = {"reversed", "rot13"}  # readings that turn ordinary text into noise: for rules only


@dataclass(frozen=True, slots=True)
class Look:
    """What was found: reasons, things to hide, and the classifier's score of every category."""

    findings: tuple[Finding, ...]
    spans: tuple[Span, ...]
    scores: dict[str, float]
    places: dict[str, tuple[int, int]]
    """Where each score was read: the window of the text."""


class Scanner:
    """The rules and weights in force."""

    def __init__(self, rules: Sequence[Rule], classifier: Ensemble) -> None:
        self.rules, self.classifier = rules, classifier
        self._anchors = AnchorIndex(anchor for rule in rules for anchor in rule.anchors)
        self._written = squeezable(rules)
        self._squeezed = AnchorIndex(self._written)

    def look(self, text: str, role: Role, *, prompt: str = "", quick: bool = False, tail: bool = False) -> Look:
        """All findings in `text`, with offsets into it as it was written. `prompt` (folded), `quick` and `tail`: see
        `Ensemble.scores`."""
        base = base_view(text)
        views = [base, *decoded_views(text, base)]
        findings = [f for view in views for f in self._by_rule(view, role)]
        findings += self._run_together(base, base, role, 6)
        findings += [f for v in views if v.name == "spaced letters" for f in self._run_together(v, base, role, 4)]
        findings += _structure(text, base)
        scores: dict[str, float] = {}
        places: dict[str, tuple[int, int]] = {}
        for view in views:
            if view.name not in _UNREADABLE and _enough(view.text):
                for score in self.classifier.scores(view.text, role, detect(view.text), prompt=prompt, quick=quick, tail=tail):
                    if score.value > scores.get(score.label, 0.0):
                        scores[score.label] = score.value
                        places[score.label] = view.span(score.start, score.end)
        return Look(_distinct(findings), tuple(find_spans(text, role)), scores, places)

    def _by_rule(self, view: View, role: Role) -> list[Finding]:
        return [_finding(match) for match in find(self.rules, view, role, self._anchors.present(view.text))]

    def _run_together(self, view: View, base: View, role: Role, shortest: int) -> list[Finding]:
        together = squeezed_view(view)
        made = {word for word in self._squeezed.present(together.text) if len(word) >= shortest and self._written[word] not in base.text}
        return [_finding(match) for match in find_squeezed(self.rules, together, made, role)]


def _finding(match: Match) -> Finding:
    return Finding(match.rule.category, match.rule.id, match.start, match.end, match.rule.score)


def find_spans(text: str, role: Role) -> list[Span]:
    """What a policy may want to hide, left to right: secrets before personal data where they overlap."""
    view = plain_view(text)
    found = find_secrets(view.text) + (find_leaking_links(view.text) if role == "response" else [])
    found += [s for s in find_pii(view.text) if all(s.end <= o.start or o.end <= s.start for o in found)]
    spans = [Span(s.kind, *view.span(s.start, s.end)) for s in found]
    spans += [Span("hidden", start, end) for _, start, end in hidden_spans(text)]
    return sorted(spans, key=lambda span: (span.start, span.end))


def _enough(text: str) -> bool:
    """Whether the classifier has something to go by: a greeting or a single word says too little."""
    start = text[:4000]
    return len(_LETTER.findall(start)) + len(_HAN.findall(start)) >= _FEWEST


def _structure(text: str, base: View) -> list[Finding]:
    found = [Finding("control", "control.sequence", m.start(), m.end(), 0.6) for m in _first(_CONTROL, text, 4)]
    turns = list(_first(_TURN, base.text, 400))
    if len(turns) >= _MANY:
        start, end = base.span(turns[0].start(), turns[-1].end())
        found.append(Finding("attack", "structure.many_shot", start, end, 0.6))
    return found


def _first(pattern: re.Pattern[str], text: str, limit: int) -> list[re.Match[str]]:
    return [match for match, _ in zip(pattern.finditer(text), range(limit), strict=False)]


def _distinct(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Left to right; of the same rule at overlapping places only the first."""
    kept: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.start, -f.end, f.rule)):
        if not any(k.rule == finding.rule and finding.start < k.end and k.start <= finding.start for k in kept[-64:]):
            kept.append(finding)
    return tuple(kept)
