"""Several explanations of the same thing side by side, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence

from explain.attribution import Attribution


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the smallest; ties share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    out = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for i in order[at : end + 1]:
            out[i] = (at + end) / 2 + 1
        at = end + 1
    return out


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation in −1…1; 0 when one of the two is constant."""
    a, b = ranks(one), ranks(other)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    product = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    size = (sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)) ** 0.5
    return float(product / size) if size else 0.0


def agreement(attributions: Sequence[Attribution]) -> dict[str, float]:
    """Spearman's correlation of the totals of each pair of methods, over the pieces that were scored."""
    scored = [i for i, role in enumerate(attributions[0].input_roles) if role != "format"]
    out = {}
    for i, one in enumerate(attributions):
        for other in attributions[i + 1 :]:
            out[f"{one.method} ~ {other.method}"] = spearman([one.totals[k] for k in scored], [other.totals[k] for k in scored])
    return out


def table(attributions: Sequence[Attribution]) -> str:
    """Pieces as rows, methods as columns (each in shares of its own largest score), then grades and agreement."""
    first = attributions[0]
    width = max(12, *(len(a.method) for a in attributions)) + 2
    lines = [" " * 18 + "".join(f"{a.method:>{width}}" for a in attributions)]
    largest = [max((abs(t) for t in a.totals), default=0.0) or 1.0 for a in attributions]
    for i, (text, role) in enumerate(zip(first.input_tokens, first.input_roles, strict=True)):
        if role != "format":
            cells = "".join(f"{a.totals[i] / size:>+{width}.2f}" for a, size in zip(attributions, largest, strict=True))
            lines.append(f"{text.strip()[:16] or repr(text)[:16]:<18}{cells}")
    lines.append(f"{'grade':<18}" + "".join(f"{a.quality.get('grade', ''):>{width}}" for a in attributions))
    lines.append(f"{'seconds':<18}" + "".join(f"{a.quality.get('method_seconds', 0.0):>{width}.2f}" for a in attributions))
    return "\n".join([*lines, "", *(f"rank correlation {pair}: {value:+.2f}" for pair, value in agreement(attributions).items())])
