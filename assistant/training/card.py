"""What a run was: sources with licences and hashes, what was cleaned away, sizes, numbers, results. Kept by the weights and in the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "card.json"
READABLE = "MODEL_CARD.md"


def write(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card for programs and for people. Raises OSError."""
    (folder / NAME).write_text(json.dumps(dict(card), ensure_ascii=False, indent=1) + "\n", "utf-8")
    (folder / READABLE).write_text(readable(card), "utf-8")


def readable(card: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    lines = [f"# {card['name']}", "", f"Made by `pellucid {card['command']}`.", "", "## Learnt from", ""]
    lines += ["| file | licence | documents | characters | times | SHA-256 |", "| --- | --- | --- | --- | --- | --- |"]
    for s in card["sources"]:
        name = str(s["file"]).replace("|", "\\|")
        lines.append(f"| {name} | {s['licence']} | {s['documents']} | {s['characters']} | {s['repeat']} | `{s['sha256'][:16]}…` |")
    lines += ["", "## What was done", ""]
    for title in ("documents", "tokens", "removed", "personal_data_replaced", "model", "training", "result"):
        table = card.get(title)
        if isinstance(table, Mapping):
            values = ", ".join(f"{k.replace('_', ' ')} {_value(v)}" for k, v in table.items()) or "none"
            lines.append(f"- **{title.replace('_', ' ')}**: {values}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
