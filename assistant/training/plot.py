"""The curve of a run, three times: as lines of text for the terminal, as a PNG, and as a page of HTML that needs nothing else."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

Points = Sequence[tuple[int, float]]
_BARS = "▁▂▃▄▅▆▇█"


def smoothed(losses: Sequence[float], points: int = 400) -> list[tuple[int, float]]:
    """(step, mean loss since the last point), at most so many."""
    size = max(1, math.ceil(len(losses) / points))
    return [
        (min(i + size, len(losses)), sum(losses[i : i + size]) / len(losses[i : i + size])) for i in range(0, len(losses), size)
    ]  # fmt: skip


def terminal(losses: Sequence[float], validations: Points, width: int = 64, height: int = 8) -> list[str]:
    """The curve as text: one column a stretch of steps, the scale at the left, the validation below."""
    if not losses:
        return []
    curve = [value for _, value in smoothed(losses, width)]
    low, high = min(curve), max(curve)
    span = (high - low) or 1.0
    rows = []
    for row in range(height - 1, -1, -1):
        cells = []
        for value in curve:
            eighths = (value - low) / span * (height * 8 - 1) + 1 - row * 8
            cells.append(" " if eighths < 1 else _BARS[min(int(eighths), 8) - 1])
        label = f"{high:7.3f}" if row == height - 1 else f"{low:7.3f}" if row == 0 else " " * 7
        rows.append(f"{label} │{''.join(cells)}")
    rows.append(" " * 8 + "└" + "─" * len(curve) + f" {len(losses)} steps")
    if validations:
        rows.append("        validation: " + ", ".join(f"{loss:.3f} at {step}" for step, loss in validations[-4:]))
    return rows


def png(path: Path, losses: Sequence[float], validations: Points, title: str) -> None:
    """Write the curve as a picture. Raises OSError when the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curve = smoothed(losses)
    axes.plot([step for step, _ in curve], [loss for _, loss in curve], color="#2a6fbb", linewidth=1.2, label="training")
    if validations:
        axes.plot([s for s, _ in validations], [v for _, v in validations], "o-", color="#e07b16", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel="nats a token", title=title)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, format="png")


def page(path: Path, losses: Sequence[float], validations: Points, title: str) -> None:
    """Write the curve as HTML with a drawing in it and the numbers below; nothing is loaded from elsewhere. Raises OSError."""
    curve = smoothed(losses)
    values = [v for _, v in [*curve, *validations]]
    low, high, last = min(values), max(values), max(len(losses), 1)
    span = (high - low) or 1.0

    def place(step: int, value: float) -> str:
        return f"{50 + 700 * step / last:.1f},{330 - 300 * (value - low) / span:.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{" ".join(place(s, v) for s, v in points)}"/>'
        for points, colour in ((curve, "#2a6fbb"), (list(validations), "#e07b16")) if points
    ]  # fmt: skip
    ticks = [
        f'<text x="44" y="{334 - 300 * i / 4:.0f}" text-anchor="end">{low + span * i / 4:.2f}</text>'
        f'<line x1="50" x2="750" y1="{330 - 300 * i / 4:.0f}" y2="{330 - 300 * i / 4:.0f}" stroke="#8884"/>'
        for i in range(5)
    ]
    numbers = json.dumps({"training": curve, "validation": list(validations)})
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        "<style>body{font:15px system-ui;max-width:800px;margin:2em auto;padding:0 1em;color-scheme:light dark}"
        "svg{width:100%}text{font-size:12px;fill:currentColor}</style>"
        f"<h1>{html.escape(title)}</h1><p><span style='color:#2a6fbb'>■</span> training 训练 "
        "<span style='color:#e07b16'>■</span> validation 验证 · nats a token, by step 每词元纳特数，按步</p>"
        f'<svg viewBox="0 0 770 360" role="img" aria-label="loss by step">{"".join(ticks)}{"".join(lines)}'
        f'<text x="750" y="350" text-anchor="end">{last} steps</text></svg>'
        f"<details><summary>numbers 数值</summary><pre>{html.escape(numbers)}</pre></details>\n",
        "utf-8",
    )
