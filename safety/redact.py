"""Typed placeholders, `[EMAIL_1]`: the same value has the same placeholder throughout, and the vault can put the
values back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from safety.pii import Span

_PLACEHOLDER = re.compile(r"\[[A-Z_]+_\d+\]")


@dataclass(slots=True)
class Vault:
    """Which placeholder stands for which value. Lives in memory, as long as one conversation; never written
    anywhere."""

    values: dict[str, str] = field(default_factory=dict)
    """Value by placeholder."""
    _names: dict[tuple[str, str], str] = field(default_factory=dict)

    def hide(self, kind: str, value: str, taken: str = "") -> str:
        """The placeholder for `value`; one that stands in the text `taken` already is not given away again."""
        if (kind, value) in self._names:
            return self._names[kind, value]
        number = 1
        while (name := f"[{kind.upper()}_{number}]") in self.values or name in taken:
            number += 1
        self._names[kind, value] = name
        self.values[name] = value
        return name

    def restore(self, text: str) -> str:
        """`text` with every placeholder of this vault replaced by its value; others stay."""
        return _PLACEHOLDER.sub(lambda match: self.values.get(match[0], match[0]), text)


def redact(text: str, spans: Sequence[Span], vault: Vault, before: str = "") -> str:
    """`text` with the spans (left to right, no overlaps) replaced. Invisible characters are dropped, all else gets a
    placeholder that stands neither in `text` nor in what was said `before`."""
    parts, position = [], 0
    for span in spans:
        if span.start >= position:
            parts.append(text[position : span.start])
            if span.kind != "hidden":
                parts.append(vault.hide(span.kind, text[span.start : span.end], f"{before}\n{text}"))
            position = span.end
    return "".join(parts) + text[position:]
