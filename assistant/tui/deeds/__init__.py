"""What each command of the chat screen does: one function a command, found by the command's id in `DEEDS`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from assistant.continuing import CUT
from assistant.tui.deeds import answering, conversations, program, reply
from assistant.tui.withheld import may_reveal

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen


def fits(id: str, view: object) -> bool:
    """Whether the deed makes sense for the turn of `view`, so that its key is worth showing."""
    turn = getattr(view, "turn", None)
    if id == "turn_continue":
        return turn is not None and turn.finish in CUT
    if id == "turn_reveal":
        return turn is not None and turn.finish == "blocked_output" and may_reveal(turn.output_verdict)
    return True


Deed = Callable[["ChatScreen", str], Awaitable[None]]

DEEDS: dict[str, Deed] = {
    "stop": reply.stop,
    "new": conversations.new,
    "regenerate": reply.regenerate,
    "continue": reply.continue_,
    "edit": reply.edit,
    "reveal": reply.reveal,
    "inspect": reply.inspect,
    "audit": reply.audit,
    "search": conversations.search,
    "list": conversations.list_,
    "model": answering.model,
    "persona": answering.persona,
    "system": answering.system,
    "set": answering.set_,
    "rename": conversations.rename,
    "export": conversations.export_,
    "delete": conversations.delete,
    "editor": program.editor,
    "settings": program.settings,
    "theme": program.theme,
    "language": program.language,
    "reload": program.reload,
    "help": program.help_,
    "quit": program.quit_,
    "cursor_up": lambda screen, argument: reply.cursor(screen, -1),
    "cursor_down": lambda screen, argument: reply.cursor(screen, +1),
    "turn_copy": reply.copy,
    "turn_copy_code": reply.copy_code,
    "turn_edit": reply.edit,
    "turn_continue": reply.continue_,
    "turn_reveal": reply.reveal,
    "turn_regenerate": reply.regenerate,
    "turn_previous": lambda screen, argument: reply.sibling(screen, -1),
    "turn_next": lambda screen, argument: reply.sibling(screen, +1),
    "turn_inspect": reply.inspect,
    "turn_safety": reply.safety,
    "turn_expand": reply.expand,
    "turn_delete": conversations.delete_turn,
}
