"""What the pipeline needs of an engine. `assistant.lm` has the one that runs here, `assistant.served` the one that asks a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from assistant.turn import Finish, Message, ModelInfo, ReplyToken, Sampling, Usage


class Prompt(Protocol):
    """A conversation as an engine will read it."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids as they will be fed; empty where a server cuts the text into tokens."""
        ...

    @property
    def dropped_turns(self) -> int: ...
    @property
    def dropped_tokens(self) -> int: ...


class Generation(Protocol):
    """One reply in the making: iterate over its tokens; the rest tells how it went."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def finish(self) -> Finish:
        """How it ended; `stopped` while it has not."""
        ...

    @property
    def usage(self) -> Usage: ...
    def __iter__(self) -> Iterator[ReplyToken]: ...


class Engine(Protocol):
    """Messages in, a reply out."""

    @property
    def info(self) -> ModelInfo: ...
    @property
    def languages(self) -> Sequence[str]:
        """What the model speaks; empty when that is not known."""
        ...

    @property
    def context_length(self) -> int: ...
    @property
    def context_asked(self) -> int: ...
    @property
    def concurrent(self) -> bool:
        """Whether several replies may be generated at once, from several threads."""
        ...

    # a prompt goes back to the engine that made it, and to no other
    def render(self, messages: Sequence[Message], *, reserve: int) -> Prompt: ...
    def render_raw(self, text: str) -> Prompt: ...
    def generate(self, prompt: Any, sampling: Sampling, *, cancel: threading.Event | None = None) -> Generation: ...
