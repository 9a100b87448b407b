"""The status line: which model, how full its context is, and how it has been told to answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual.content import Content
from textual.widgets import Static

from assistant.tui.format import bar
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.tui.told import told


@dataclass(frozen=True, slots=True)
class Status:
    """What the line says."""

    model: str = ""
    loading: str = ""
    """What is being loaded; empty when nothing is."""
    fraction: float | None = None
    failed: bool = False
    used: int = 0
    context: int = 0
    temperature: float = 0.0
    policy: str = ""
    persona: str = ""


class StatusLine(Static):
    """One line under the message box."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__("", id=id, markup=False)
        self.status = Status()

    def change(self, **changes: object) -> None:
        """Change some of what is shown."""
        status = replace(self.status, **changes)  # type: ignore[arg-type]
        if status != self.status:
            self.status = status
            self.retranslate()

    def retranslate(self) -> None:
        """Draw the line again in the language in force."""
        self.update(status_line(self.status, self.size.width or 80), layout=False)

    def on_resize(self) -> None:
        self.retranslate()


def status_line(status: Status, width: int) -> Content:
    """The line for `width` cells."""
    if status.failed:
        return Content.styled(say("status.failed", model=one_line(status.model, 40)), "$text-error")
    if status.loading:
        known = status.fraction is not None
        gauge = f" {bar(status.fraction or 0, 12)} {round((status.fraction or 0) * 100)}%" if known else " …"
        return Content.styled(say("status.loading", what=one_line(told(status.loading), 50)) + gauge, "$text-accent")
    parts = [Content(one_line(status.model, 32))]
    if status.context:
        share = status.used / status.context
        gauge = f"{bar(share, 8)} " if width >= 60 else ""
        style = "$text-error" if share > 0.9 else "$text-warning" if share > 0.75 else ""
        text = say("status.context", used=status.used, context=status.context, percent=round(share * 100))
        parts.append(Content.styled(gauge + text, style))
    if status.persona:
        parts.append(Content(one_line(status.persona, 24)))
    parts.append(Content(f"T {status.temperature:g}"))
    if status.policy:
        parts.append(Content(say("status.policy", policy=one_line(status.policy, 20))))
    while len(parts) > 1 and sum(part.cell_length + 3 for part in parts) - 3 > width:
        parts.pop()
    return Content.styled(" · ", "$foreground 35%").join(parts)
