"""Keys, tokens and passwords by their published shapes. No guess from randomness alone: hashes and ids are not
secrets."""

from __future__ import annotations

import re

from safety.pii import Span

_SHAPES = [
    r"-----BEGIN (?:[A-Z]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----[\s\S]{0,16000}?"
    r"(?:-----END (?:[A-Z]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    r"(?<![A-Za-z0-9])(?:AKIA|ASIA|AGPA|AROA|AIDA)[0-9A-Z]{16}(?![A-Za-z0-9])",
    r"(?<![A-Za-z0-9_-])sk-(?:[A-Za-z]{2,12}-){0,3}[A-Za-z0-9_-]{20,200}",
    r"(?<![A-Za-z0-9_])(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36,80}",
    r"(?<![A-Za-z0-9_])github_pat_[A-Za-z0-9_]{40,120}",
    r"(?<![A-Za-z0-9_])glpat-[A-Za-z0-9_-]{20,40}",
    r"(?<![A-Za-z0-9_])xox[abeoprs]-[A-Za-z0-9-]{10,120}",
    r"(?<![A-Za-z0-9_])AIza[0-9A-Za-z_-]{35}(?![A-Za-z0-9_-])",
    r"(?<![A-Za-z0-9_])(?:sk|rk|pk)_(?:live|test)_[0-9a-zA-Z]{16,120}",
    r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,60}",
    r"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}",
    r"(?<![A-Za-z0-9_])pypi-[A-Za-z0-9_-]{60,240}",
    r"(?<![A-Za-z0-9_])SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}",
    r"(?<![A-Za-z0-9_])LTAI[0-9A-Za-z]{12,24}(?![0-9A-Za-z])",
    r"(?<![A-Za-z0-9_])AKID[0-9A-Za-z]{32}(?![0-9A-Za-z])",
    r"(?<![0-9])[0-9]{8,10}:AA[A-Za-z0-9_-]{32,34}(?![A-Za-z0-9_-])",
    r"(?<![A-Za-z0-9_.-])eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,1000}",
    r"(?<=://)[^\s/:@]{1,64}:(?P<v>[^\s/@]{3,100})@(?=[A-Za-z0-9.-])",
    r"(?i:(?:password|passwd|pwd|api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret)"
    r"['\"]? ?[:=] ?['\"]?)(?P<v>(?=[^\s'\"]{0,60}\d)(?=[^\s'\"]{0,60}[A-Za-z])[^\s'\",;<>{}()]{8,120})",
    r"(?:密码|口令|密钥)(?:是|为|[:：=])\s?(?P<v>(?=[!-~]{0,40}\d)(?=[!-~]{0,40}[A-Za-z])[!-~]{6,60})",
    r"(?i:authorization: ?(?:bearer|basic) )(?P<v>[A-Za-z0-9._~+/=-]{12,2000})",
]
_COMPILED = [re.compile(shape) for shape in _SHAPES]
_HINTS = (
    *(
        "PRIVATE KEY",
        "AKIA",
        "ASIA",
        "AGPA",
        "AROA",
        "AIDA",
        "sk-",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
    ),
    *(
        "xox",
        "AIza",
        "sk_",
        "rk_",
        "pk_",
        "hf_",
        "npm_",
        "pypi-",
        "SG.",
        "LTAI",
        "AKID",
        ":AA",
        "eyJ",
        "://",
        "密码",
        "口令",
        "密钥",
    ),
)
_WORDS = re.compile("(?i)passw|pwd|api.?key|secret|token|authorization")


def find_secrets(text: str) -> list[Span]:
    """All secrets in `text`, left to right, without overlaps."""
    if not any(hint in text for hint in _HINTS) and not _WORDS.search(text):
        return []
    taken: list[Span] = []
    for pattern in _COMPILED:
        group: str | int = "v" if "v" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            start, end = match.span(group)
            if all(end <= other.start or other.end <= start for other in taken):
                taken.append(Span("secret", start, end))
    return sorted(taken, key=lambda span: span.start)
