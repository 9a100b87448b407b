"""From untrusted text to Textual content: sanitised, and never interpreted as markup."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.style import Style

from assistant.tui.sanitize import sanitize
from safety.verdict import Finding


def safe(text: str, style: str | Style = "") -> Content:
    """`text` as it may be shown, brackets and all."""
    return Content.styled(sanitize(text), style) if style else Content(sanitize(text))


def marked(text: str, findings: Iterable[Finding], style: str = "bold underline $text-error") -> Content:
    """`text` with the words that triggered `findings` marked by ⟦ ⟧ and a style; offsets outside the text are ignored."""
    spans = [(f.start, f.end) for f in findings if (f.start, f.end) != (0, len(text))]  # all marked is nothing marked
    return marked_spans(text, spans, style, "⟦", "⟧")


def marked_spans(
    text: str, spans: Iterable[tuple[int, int]], style: str = "bold $text-accent", before: str = "", after: str = ""
) -> Content:
    """`text` with the characters `[start, end)` of each span in `style` and between two signs."""
    parts, at = [], 0
    for start, end in _merged([(start, end) for start, end in spans if 0 <= start < end <= len(text)]):
        parts.append(Content(sanitize(text[at:start])))
        parts.append(Content.styled(before + sanitize(text[start:end]) + after, style))
        at = end
    parts.append(Content(sanitize(text[at:])))
    return Content("").join(parts)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out
