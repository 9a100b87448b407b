"""What an empty chat shows: the name, one sentence, and how to begin."""

from __future__ import annotations

import os

from textual.content import Content
from textual.widgets import Static

from assistant.tui.terminal import shift_enter_works
from assistant.tui.text import say


class Welcome(Static):
    """A calm first screen."""

    def __init__(self) -> None:
        super().__init__("", id="welcome", markup=False)

    def on_mount(self) -> None:
        self.retranslate()

    def retranslate(self) -> None:
        """Say it in the language in force."""
        newline = say("welcome.newline_both") if shift_enter_works(os.environ) else say("welcome.newline")
        self.update(
            Content("\n").join(
                [
                    Content.styled("P E L L U C I D", "bold $text-primary"),
                    Content.styled(say("welcome.line"), "italic $foreground 62%"),
                    Content(""),
                    Content(say("welcome.safety")),
                    Content(""),
                    Content.styled(newline, "$foreground 62%"),
                    Content.styled(say("welcome.keys"), "$foreground 62%"),
                ]
            )
        )
