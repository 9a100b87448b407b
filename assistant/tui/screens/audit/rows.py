"""A row of the audit browser's table, and a node of its tree."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual.widgets.tree import TreeNode

from assistant.tui import trace
from assistant.tui.format import FINISH_MARKS, MARKS, category, moment
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from safety.verdict import Action

_STYLES = {"allow": "green", "caution": "yellow", "redact": "cyan", "block": "red"}


def cells(row: Any) -> dict[str, Text]:
    """The cells by column name; the text ends with … where its column does."""
    action = row.verdict or "allow"
    score = f" {row.score:.2f}" if hasattr(row, "score") else ""
    named = f" {category(row.category)}" if getattr(row, "category", "") and action != "allow" else ""
    mark = MARKS[Action(action)] if action in tuple(Action) else "·"
    finish = getattr(row, "finish", "")
    prompt = row.prompt if hasattr(row, "prompt") else row.snippet
    erased = getattr(row, "erased", False) and not prompt
    return {
        "time": Text(moment(row.created_us)[5:16]),
        "verdict": Text(one_line(f"{mark} {say.get('action.' + action, action)}{named}{score}", 34), _STYLES.get(action, "")),
        "finish": Text(f"{FINISH_MARKS.get(finish, '·')} {say.get('finish.' + finish, finish)}" if finish else ""),
        "model": Text(one_line(getattr(row, "model", ""), 18)),
        "text": Text(say("audit.erased") if erased else one_line(prompt, 200), no_wrap=True, overflow="ellipsis"),
    }


def grow(parent: TreeNode[Any], node: trace.Node) -> None:
    """Add `node` and all below it to `parent`."""
    label = Text(node.text)
    if not node.children:
        parent.add_leaf(label)
        return
    branch = parent.add(label, expand=True)
    for child in node.children:
        grow(branch, child)
