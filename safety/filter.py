"""The prompt side: one message is judged before the model sees it, with the earlier messages in mind where it refers
back to them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace

from safety.judge import category_scores, combine, deciding, hidden_by, judge
from safety.moderate import too_long
from safety.policy import Policy
from safety.redact import Vault, redact
from safety.scan import Look, Scanner
from safety.verdict import Action, Finding, Verdict

_REFERS = re.compile(
    r"(?i)\b(?:above|previous|earlier|that|it|this|those|them|continue|go on|keep going|more detail|elaborate|expand|"
    r"next step|step \d+|the rest|again|same|what else|in detail)\b|继续|接着|上面|刚才|前面|详细|展开|然后呢|下一步|"
    r"第[一二三四五六七八九十\d]步|它|这个|那个|还有呢|再说|具体|怎么做|多说"
)
_SHORT = 160  # a message that only makes sense with the one before is short
_SEAM = 400  # characters of the message before that are read together with this one


def filter_prompt(
    text: str,
    *,
    context: Sequence[tuple[str, str]],
    scanner: Scanner,
    policy: Policy,
    stamp: str,
    language: str | None,
    vault: Vault,
) -> Verdict:
    """The verdict about one message; `context` holds (role, text) of the earlier ones, oldest first."""
    started = time.perf_counter()
    if len(text) > policy.max_characters:
        verdict = too_long(policy, stamp, "prompt", text, language)
    else:
        look = scanner.look(text, "prompt")
        earlier = next((said for role, said in reversed(context) if role == "user" and said), "")
        if earlier:
            look = combine([look, *_in_context(text, look, earlier[-policy.max_characters :], scanner, policy)])
        hide = hidden_by(policy, "prompt", look.spans)
        redacted = redact(text, hide, vault, "\n".join(said for _, said in context)) if hide else None
        verdict = judge(look, policy, stamp, "prompt", text, language, redacted)
    return replace(verdict, milliseconds=(time.perf_counter() - started) * 1000)


def _in_context(text: str, look: Look, earlier: str, scanner: Scanner, policy: Policy) -> list[Look]:
    """What the message means after the one before: a request cut in two, or "explain the above" after an unsafe
    message."""
    looks = []
    seam = earlier[-_SEAM:]
    if len(text) <= 4 * _SEAM:
        both = scanner.look(f"{seam} {text}", "prompt", quick=True)  # for the rules: scores are not used
        start = len(seam) + 1
        across = [f for f in both.findings if f.start < len(seam) and f.end > start]
        looks.append(Look(tuple(replace(f, start=0, end=min(len(text), f.end - start)) for f in across), (), {}, {}))
    if len(text) <= _SHORT and _REFERS.search(text):
        scores = category_scores(scanner.look(earlier, "prompt"))
        action, category = deciding(policy, "prompt", scores)
        if action is Action.BLOCK:
            looks.append(Look((Finding(category, "context", 0, len(text), scores[category]),), (), {}, {}))
    return looks
