"""From the labels of the data sources to ours. A row teaches one category, several, "some category, unknown which",
or that it is safe.

Sources label differently and coarsely; what cannot be mapped with a clear conscience teaches nothing (None).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LABELS = ("violence", "weapons", "crime", "sexual", "minors", "hate", "harassment", "self_harm", "privacy", "attack")
"""What the classifier scores. Risky advice is left to the rules: every data set calls ordinary health questions
unsafe."""

_CLOSE = {
    "violence": {"weapons", "crime", "hate", "harassment", "self_harm"},
    "weapons": {"violence", "crime"},
    "crime": {"weapons", "privacy", "violence", "minors", "harassment"},
    "sexual": {"minors", "harassment"},
    "minors": {"sexual", "crime", "violence", "harassment"},
    "hate": {"harassment", "violence"},
    "harassment": {"hate", "violence", "privacy", "sexual"},
    "self_harm": {"violence"},
    "privacy": {"crime", "harassment"},
    "attack": set(LABELS),
}
"""Categories that a text of the first one often belongs to as well: there the row says nothing."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one row says: `targets` (label: 0 or 1; absent means unknown), or that some label applies (`any`)."""

    targets: Mapping[str, float]
    any: bool = False
    weight: float = 1.0


SAFE = Lesson(dict.fromkeys(LABELS, 0.0))

_BY_WORD: list[tuple[tuple[str, ...], str | None]] = [  # the first word found in the source's own label decides
    (("隐私", "个人信息", "Privacy", "privacy"), "privacy"),
    (("Child Abuse", "儿童", "minors"), "minors"),
    (("武器", "Weapon", "weapons"), "weapons"),
    (("恐怖", "Terror", "terrorism", "杀人", "violence", "Violence:", "Physical Harm|Violence"), "violence"),
    (
        ("歧视", "Hate Speech", "ethnic", "Religious", "race", "religion", "Gender-based", "Racial", "unfairness"),
        "hate",
    ),
    (("诽谤", "侮辱", "Cyberbullying", "bullying", "insult", "Harass"), "harassment"),
    (("自杀", "suicide", "Suicide", "Self-harm", "Self harm"), "self_harm"),
    (("色情", "淫秽", "Porn", "Adult", "sexual"), "sexual"),
    (("Political", "Tailored", "Financial Advice", "Legal Opinion", "Health Consultation", "Gov Decision"), None),
    (
        (
            "违法犯罪",
            "Illegal",
            "Fraud",
            "fraud",
            "Malware",
            "Economic",
            "欺诈",
            "诈骗",
            "赌博",
            "毒品",
            "crimes",
            "非法",
            "伪造",
        ),
        "crime",
    ),
]


def lesson(row: Mapping[str, str], *, with_prompt: bool = False) -> Lesson | None:
    """What this row teaches, or None. A reply that is shown together with the prompt that it answers can teach more."""
    if row["label"] == "safe":
        return SAFE
    category, source, kind = row.get("category") or "", row["set"], row["kind"]
    if category in LABELS:  # our own rows
        return _only(category)
    if source == "bipia_indirect" and not category.endswith(("start", "end")):
        return None
    if kind in ("jailbreak", "injection"):
        return _only("attack", 0.5 if source in ("sap200", "bipia_indirect") else 1.0)
    if category.startswith(("harmfulqa", "dangerousqa")):  # broad, and not all of it harmful
        return Lesson({}, any=True, weight=0.15)
    if row["role"] == "post":
        return _only("hate" if kind == "hate" else "harassment", 0.15)
    if source == "diasafety":
        by_kind = {"Offending User": "harassment", "Biased Opinion": "hate"}
        if with_prompt:
            return _only(by_kind[category], 0.6) if category in by_kind else Lesson({}, any=True, weight=0.5)
        return _only(by_kind[category], 0.3) if category in by_kind else None
    for words, label in _BY_WORD:
        if any(word in category for word in words):
            return _only(label) if label else None
    return Lesson({}, any=True, weight=0.7)


def _only(label: str, weight: float = 1.0) -> Lesson:
    """`label` applies, the ones close to it are unknown, the rest does not apply."""
    others = {name: 0.0 for name in LABELS if name != label and name not in _CLOSE[label]}
    return Lesson({label: 1.0, **others}, weight=weight)
