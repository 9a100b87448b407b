"""What the terminal application needs of the rest of the program. `assistant.session.Session` is one; tests script
another.

Everything here may block and is called from a background thread, never from the event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from assistant.events import Event
from assistant.pipeline import Request
from assistant.settings import Settings
from assistant.turn import Turn
from explain.attribution import Attribution

if TYPE_CHECKING:
    from assistant.store.listing import Filters

Progress = Callable[[str, float | None], None]


class LedgerLike(Protocol):
    """The questions that are asked of the log; rows and hits are read by attribute (see `assistant.store.ledger`)."""

    def turn(self, turn_id: str) -> Turn: ...
    def turns(self, conversation: str) -> list[Turn]: ...
    def latest_turn(self, conversation: str | None = None) -> Turn | None: ...
    def conversations(self, limit: int = 50, before: str | None = None) -> Sequence[Any]: ...
    def rename(self, conversation: str, title: str) -> None: ...
    def attributions(self, turn_id: str) -> list[Attribution]: ...
    def search(self, query: str, *, limit: int = 20, before: int | None = None, **filters: Unpack[Filters]) -> Sequence[Any]: ...
    def list_turns(self, *, before: int | None = None, limit: int = 50, **filters: Unpack[Filters]) -> Sequence[Any]: ...
    def record_event(self, kind: str, fields: Mapping[str, Any]) -> int: ...
    def release_memory(self) -> None: ...


class SessionLike(Protocol):
    """One running program."""

    settings: Settings
    engine: Any
    guard: Any

    @property
    def ledger(self) -> LedgerLike: ...
    @property
    def ready(self) -> bool: ...
    def load(self, progress: Progress = ..., /) -> None: ...
    def respond(self, request: Request, cancel: threading.Event | None = None) -> Iterator[Event]: ...
    def explain(
        self,
        turn: str,
        *,
        method: str = "balanced-ablation",
        token: int | None = None,
        against: int | None = None,
        sentence: int | None = None,
        contrast: str | None = None,
        level: str = "auto",
        progress: Progress = ...,
        cancel: threading.Event | None = None,
    ) -> Attribution: ...
    def ablate(self, turn: str, *, inputs: Sequence[str], part: Sequence[int], token: int) -> Any: ...
