"""An `Attribution` as a PNG, for papers and slides: every piece of the prompt on its colour, the quality card below."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path
from typing import IO

from explain.attribution import Attribution
from explain.render import card, strengths, top

COLUMNS = 96
"""Character cells in a line."""
FONTS = [
    "DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Source Han Sans SC",
    "Microsoft YaHei", "PingFang SC", "SimHei", "Arial Unicode MS", "monospace",
]  # fmt: skip
"""Whatever of these the machine has; the second and later ones bring Chinese."""


def save(attribution: Attribution, path: Path | IO[bytes], title: str) -> None:
    """Write the picture to a path or an open file. Raises OSError when that cannot be written. Characters that no font of the machine
    has appear as boxes.
    """
    import logging

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # of families this machine lacks
    pieces = _laid_out(attribution)
    lines = max((line for _, line, _, _ in pieces), default=0) + 1
    notes = [line.strip() for line in card(attribution)]
    rows = lines + len(notes) + 4
    figure = Figure(figsize=(12, 0.28 * rows), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(rows, 0)
    axes.axis("off")
    style = {"family": FONTS, "fontsize": 11, "verticalalignment": "center"}
    axes.text(0, 0.6, f"{title} · {attribution.target} · {attribution.method}", weight="bold", **style)  # type: ignore[arg-type]
    for text, line, column, (strength, mark) in pieces:
        y = line + 2
        if abs(strength) > 0.02:
            colour = (0.9, 0.47, 0.08) if strength > 0 else (0.16, 0.43, 0.86)
            axes.add_patch(Rectangle((column, y - 0.45), cells(text), 0.9, facecolor=colour, alpha=min(abs(strength), 1.0), linewidth=0))
        axes.text(column, y, text + mark, **style)  # type: ignore[arg-type]
    for i, note in enumerate(notes):
        axes.text(0, lines + 3 + i, note, color="0.35", **style)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that are missing
        figure.savefig(path, format="png")


def cells(text: str) -> int:
    """The width of a text in character cells: two for East Asian wide characters."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def _laid_out(attribution: Attribution) -> list[tuple[str, int, int, tuple[float, str]]]:
    """(text, line, column, (strength, mark)) of every piece; a new line for every role, format left out."""
    totals = attribution.totals
    shades, best = strengths(totals), top(totals)
    out: list[tuple[str, int, int, tuple[float, str]]] = []
    line, column, previous = -1, 0, ""
    for i, (word, role) in enumerate(zip(attribution.input_tokens, attribution.input_roles, strict=True)):
        if role == "format":
            previous = ""
            continue
        if role != previous:
            line, previous = line + 1, role
            out.append((f"{role} ▸ ", line, 0, (0.0, "")))
            column = cells(f"{role} ▸ ")
        for part in word.replace("\t", " ").splitlines() or [" "]:
            if column + cells(part) > COLUMNS - 2 and column:
                line, column = line + 1, 2
            mark = "¹²³"[best.index(i)] if i in best else ""
            out.append((part, line, column, (shades[i], mark)))
            column += cells(part) + len(mark)
    return out
