"""How this chat is to be answered, and what waits to be sent. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from assistant.errors import UsageError
from assistant.settings import Settings, convert
from assistant.tui.branch import Branch
from assistant.tui.personas import Persona
from assistant.tui.sanitize import one_line
from assistant.tui.text import say
from assistant.turn import Sampling, Turn

OF_THE_ENGINE = (
    "model", "device", "dtype", "chat_format", "threads", "context", "engine", "base_url", "server_timeout", "server_retries",
)  # fmt: skip
"""The settings under which the model is loaded again when they change."""
NOT_HERE = frozenset({"database"})
"""Settings that need another start: the log is open."""


def with_parameter(sampling: Sampling, name: str, value: str) -> Sampling:
    """`sampling` with one parameter as it is typed after /set; several stop strings stand between bars. Raises UsageError."""
    if name == "seed":
        return replace(sampling, seed=None if value in ("", "none") else _whole(value))
    if name == "stop":
        return replace(sampling, stop=tuple(value.split(" | ")) if value else ())
    if name not in {f.name for f in fields(Sampling)}:
        names = ", ".join(f.name for f in fields(Sampling))
        raise UsageError(say("error.unknown_parameter", name=one_line(name, 30), names=names))
    return replace(sampling, **{name: convert(name, value, "/set")})


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(say("error.not_a_number", value=one_line(value, 30))) from None


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
    brought: Mapping[str, Any] = field(default_factory=dict)
    """The sampling parameters that came with the persona."""
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

    def wear(self, persona: Persona, language: str, settings: Settings) -> None:
        """Answer as `persona` from now on. What an earlier persona brought goes with it; what the person set stays."""
        usual = settings.sampling()
        back = {name: getattr(usual, name) for name, value in self.brought.items() if getattr(self.sampling, name) == value}
        self.system, self.persona, self.brought = persona.system(language), persona.name(language), persona.sampling
        self.sampling = replace(self.sampling, **{**back, **persona.sampling})

    def recall(self, persona: Persona | None, language: str) -> None:
        """The conversation was answered by `persona`: say so, and know what came with it."""
        self.persona, self.brought = (persona.name(language), persona.sampling) if persona else ("", {})

    def continue_from(self, branch: Branch, settings: Settings, *, same: bool = False) -> None:
        """Go on as the last turn of `branch` was answered; with `same` the conversation was here already, and keeps its parameters.

        A seed is not taken over: the one in the log was mostly drawn.
        """
        self.editing = None
        self.system = branch.tip.system if branch.tip is not None else settings.system
        if not same:
            self.sampling = replace(branch.tip.sampling, seed=None) if branch.tip is not None else settings.sampling()
