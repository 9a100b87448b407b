"""What deeds ask of the chat screen before they act."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.errors import UsageError
from assistant.tui.text import say
from assistant.turn import Turn

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen


def current_turn(screen: ChatScreen) -> Turn:
    """The finished turn under the message cursor, else the last one. Raises UsageError when there is none."""
    view = screen.transcript.current()
    if view is None or view.turn is None:
        raise UsageError(say("error.no_turn"))
    return view.turn


def shown_conversation(screen: ChatScreen) -> str:
    """The conversation that is shown. Raises UsageError when it is still empty."""
    if screen.branch.conversation is None:
        raise UsageError(say("error.no_turn"))
    return screen.branch.conversation


def require_idle(screen: ChatScreen) -> None:
    """Raises UsageError while a reply is being written."""
    if screen.generation is not None:
        raise UsageError(say("chat.busy"))
