"""How this chat is to be answered, and what waits to be sent. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field

from assistant.settings import Settings
from assistant.tui.branch import Branch
from assistant.turn import Sampling, Turn


@dataclass(frozen=True, slots=True)
class Wish:
    """A prompt to be sent. One that `branches` goes after `parent`, any other after the last turn shown."""

    prompt: str
    branches: bool = False
    parent: str | None = None
    continues: str | None = None
    """The turn whose cut reply is to be gone on with."""


@dataclass
class ChatState:
    """What holds for the conversation shown."""

    system: str
    sampling: Sampling
    persona: str = ""
    queue: list[Wish] = field(default_factory=list)
    editing: Turn | None = None
    """The turn whose prompt is in the message box to be sent again as a sibling."""

    @classmethod
    def fresh(cls, settings: Settings) -> ChatState:
        """A new chat under `settings`."""
        return cls(settings.system, settings.sampling())

    def wish(self, prompt: str) -> Wish:
        """What sending `prompt` from the message box means now; ends the editing."""
        turn, self.editing = self.editing, None
        return Wish(prompt, True, turn.parent) if turn else Wish(prompt)

    def take_back_all(self) -> list[str]:
        """Empty the queue; returns its prompts, oldest first."""
        prompts = [wish.prompt for wish in self.queue]
        self.queue.clear()
        return prompts

    def continue_from(self, branch: Branch, settings: Settings) -> None:
        """Go on as the last turn of `branch` was answered."""
        self.editing = None
        if branch.tip is not None:
            self.system = branch.tip.system
        else:
            self.system = settings.system
