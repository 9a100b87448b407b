"""The value every safety decision is expressed in. Pure data: no torch, no I/O, equal content means equal verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Action(StrEnum):
    """What happens to a text, from mildest to most severe."""

    ALLOW = "allow"  # passes as it is
    CAUTION = "caution"  # passes, with a notice
    REDACT = "redact"  # passes with parts replaced by typed placeholders
    BLOCK = "block"  # does not pass

    @property
    def severity(self) -> int:
        """0 for allow … 3 for block; the most severe action of several wins."""
        return list(Action).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, tied to the characters `[start, end)` of the text as the user wrote it."""

    category: str
    rule: str
    """A rule's id, or `classifier` when the trained model decided."""
    start: int
    end: int
    score: float
    """In 0…1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one text, with everything needed to say why."""

    action: Action
    score: float = 0.0
    """The highest category score, 0…1."""
    categories: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    """One sentence in the user's language; empty when nothing was found."""
    policy: str = ""
    """Name and content hash of the policy, as `balanced@1a2b3c4d`."""
    milliseconds: float = field(default=0.0, compare=False)
    """What the decision took; no part of it, so equal decisions are equal however long they took."""
    redacted: str | None = None
    """The text to pass on instead, when the action is `redact`."""

    @property
    def category(self) -> str:
        """The deciding category: the one scored highest; empty when nothing was scored."""
        return max(self.categories, key=lambda name: self.categories[name], default="")

    def to_dict(self) -> dict[str, Any]:
        """The verdict under its public JSON names (see README, "Verdicts")."""
        out: dict[str, Any] = {
            "action": self.action.value,
            "score": round(self.score, 6),
            "categories": {name: round(score, 6) for name, score in self.categories.items()},
            "findings": [
                {"category": f.category, "rule": f.rule, "start": f.start, "end": f.end, "score": round(f.score, 6)} for f in self.findings
            ],
            "reason": self.reason,
            "policy": self.policy,
            "milliseconds": round(self.milliseconds, 3),
        }
        if self.redacted is not None:
            out["redacted"] = self.redacted
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`. Raises KeyError or ValueError on data that is no verdict."""
        return cls(
            action=Action(data["action"]),
            score=float(data["score"]),
            categories=MappingProxyType({str(k): float(v) for k, v in data["categories"].items()}),
            findings=tuple(
                Finding(str(f["category"]), str(f["rule"]), int(f["start"]), int(f["end"]), float(f["score"])) for f in data["findings"]
            ),
            reason=str(data["reason"]),
            policy=str(data["policy"]),
            milliseconds=float(data["milliseconds"]),
            redacted=data.get("redacted"),
        )
