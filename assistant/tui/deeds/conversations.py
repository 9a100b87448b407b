"""Deeds on whole conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.tui import auditing, export
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState
from assistant.tui.deeds.demands import current_turn, require_idle, shown_conversation
from assistant.tui.screens.dialogs import ConfirmDialog, InputDialog
from assistant.tui.stages import Stages
from assistant.tui.text import say

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen


async def new(screen: ChatScreen, argument: str) -> None:
    """Begin a new conversation."""
    require_idle(screen)
    screen.leave_conversation()
    screen.branch = Branch()
    screen.state = ChatState.fresh(screen.session.settings)
    screen.take_policy(None)
    await screen.transcript.show(screen.branch)
    screen.strip.show(Stages())
    screen.status.change(used=0)
    screen.show_settings()
    screen.sidebar.mark(None)
    screen.take_up_draft()
    screen.prompt.focus()


async def search(screen: ChatScreen, argument: str) -> None:
    """Search in all conversations."""
    screen.show_list(True)
    box = screen.sidebar.query_one("#search")
    if argument:
        screen.sidebar.search_for(argument)
    box.focus()


async def list_(screen: ChatScreen, argument: str) -> None:
    """Show or hide the list of conversations."""
    screen.show_list(not screen.sidebar.display)


async def rename(screen: ChatScreen, argument: str) -> None:
    """Give the conversation a title."""
    conversation = shown_conversation(screen)

    async def save(title: str | None) -> None:
        if title and title.strip():
            await screen.attempt(lambda: screen.session.ledger.rename(conversation, title.strip()))
            screen.sidebar.refresh_rows()

    if argument:
        await save(argument)
    else:
        screen.app.push_screen(InputDialog(say("command.rename.name")), save)


async def export_(screen: ChatScreen, argument: str) -> None:
    """Write the branch to a file."""
    shown_conversation(screen)
    path = await screen.attempt(lambda: export.write(screen.branch, argument))
    if path is not None:
        screen.tell(say("export.done", path=path))


async def delete(screen: ChatScreen, argument: str) -> None:
    """Erase the texts of the whole conversation."""
    require_idle(screen)
    conversation = shown_conversation(screen)

    async def confirmed(sure: bool | None) -> None:
        if sure and await screen.attempt(lambda: auditing.redact(screen.session.ledger, [], conversation, "deleted")) is not None:
            await new(screen, "")
            screen.sidebar.refresh_rows()

    screen.app.push_screen(ConfirmDialog(say("delete.title"), say("delete.conversation"), say("delete.confirm")), confirmed)


async def delete_turn(screen: ChatScreen, argument: str) -> None:
    """Erase the texts of one turn."""
    require_idle(screen)
    turn = current_turn(screen)

    async def confirmed(sure: bool | None) -> None:
        if sure and await screen.attempt(lambda: auditing.redact(screen.session.ledger, [turn.id], None, "deleted")) is not None:
            screen.open_conversation(turn.conversation, turn.id)
            screen.sidebar.refresh_rows()

    screen.app.push_screen(ConfirmDialog(say("delete.title"), say("delete.turn"), say("delete.confirm")), confirmed)
