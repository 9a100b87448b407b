"""Markdown lists in one widget each.

Textual makes four widgets of every item: a reply with a hundred items takes seconds to mount. A list whose items hold nothing but
paragraphs and such lists is drawn here line by line instead, looking the same; any other is left to Textual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget
from textual.widgets import Markdown
from textual.widgets._markdown import (
    MarkdownBlock,
    MarkdownBulletList,
    MarkdownList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One paragraph of an item: what stands before its first line, and its text."""

    lead: str
    bullet: str
    text: Content


class FlatRows(Widget):
    """The rows of one list, each broken beside its bullet."""

    DEFAULT_CSS = "FlatRows { width: 1fr; height: auto; }"

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__()
        self._rows = tuple(rows)
        self._broken: tuple[int, Content, int] = (-1, Content(""), 0)

    def _lines(self, width: int) -> tuple[Content, int]:
        if self._broken[0] != width:
            lines: list[Content] = []
            for row in self._rows:
                before = cell_len(row.lead) + cell_len(row.bullet)
                for number, line in enumerate(row.text.wrap(max(4, width - before))):
                    lead = [row.lead, (row.bullet, "$text-primary")] if number == 0 else [" " * before]
                    lines.append(Content.assemble(*lead, line.rstrip()))
            self._broken = (width, Content("\n").join(lines), len(lines))
        return self._broken[1:]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._lines(width)[1]

    def render(self) -> Content:
        return self._lines(self.content_size.width)[0]

    async def action_link(self, href: str) -> None:
        """A link was clicked: it is reported, never followed."""
        self.post_message(Markdown.LinkClicked(self.query_ancestor(Markdown), href))


def rows_of(blocks: Sequence[MarkdownBlock], ordered: bool, lead: str = "") -> list[Row] | None:
    """The rows of a list of these items; None when an item holds something else than paragraphs and flat lists."""
    items = [block for block in blocks if isinstance(block, MarkdownListItem)]
    bullets = [item.bullet for item in items]
    if ordered:
        first = int(items[0].bullet) if items and items[0].bullet.isdecimal() else 1
        numbers = [f"{number}. " for number in range(first, first + len(items))]
        bullets = [number.rjust(max(map(len, numbers)) + 1) for number in numbers]
    rows: list[Row] = []
    for item, bullet in zip(items, bullets, strict=True):
        mark, space = bullet, " " * cell_len(bullet)
        for block in item._blocks:
            if isinstance(block, MarkdownList):
                inner = rows_of(block._blocks, isinstance(block, MarkdownOrderedList), lead + space)
                if inner is None:
                    return None
                if inner and mark != space:  # an item that begins with a list: both bullets stand on one line
                    inner[0] = replace(inner[0], lead=lead + mark + inner[0].lead.removeprefix(lead + space))
                rows += inner
            elif isinstance(block, MarkdownParagraph):
                rows.append(Row(lead, mark, block._content))
            else:
                return None
            mark = space
        if mark != space:
            rows.append(Row(lead, mark, Content("")))
    return rows


class FlatBulletList(MarkdownBulletList):
    """A bullet list, in one widget where that is possible."""

    def compose(self) -> ComposeResult:
        rows = rows_of(self._blocks, ordered=False)
        if rows is None:
            yield from super().compose()
        else:
            yield FlatRows(rows)
            self._blocks.clear()


class FlatOrderedList(MarkdownOrderedList):
    """A numbered list, in one widget where that is possible."""

    def compose(self) -> ComposeResult:
        rows = rows_of(self._blocks, ordered=True)
        if rows is None:
            yield from super().compose()
        else:
            yield FlatRows(rows)
            self._blocks.clear()
