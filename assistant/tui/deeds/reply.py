"""Deeds on the reply and on the turn under the message cursor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from assistant.continuing import CUT
from assistant.errors import UsageError
from assistant.tui import export, withheld
from assistant.tui.chat_state import Wish
from assistant.tui.deeds.demands import current_turn, require_idle
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import ChoiceDialog
from assistant.tui.text import say
from assistant.turn import Turn

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen


async def stop(screen: ChatScreen, argument: str) -> None:
    """Stop the reply; without one take back the last queued prompt; without one leave the editing."""
    if screen.stop():
        return
    if screen.state.queue:
        screen.prompt.put(screen.state.queue.pop().prompt)
        screen.refresh_queue()
    elif screen.state.editing:
        screen.state.editing = None
        screen.refresh_queue()
    screen.prompt.focus()


async def regenerate(screen: ChatScreen, argument: str) -> None:
    """Answer the prompt of the turn again, beside the first answer."""
    turn = current_turn(screen)
    require_idle(screen)
    await screen.ask(Wish(turn.prompt, branches=True, parent=turn.parent))


async def continue_(screen: ChatScreen, argument: str) -> None:
    """Go on with a reply that was cut, where it was cut; the whole is a sibling of the part."""
    turn = current_turn(screen)
    if turn.finish not in CUT or not turn.reply or not turn.in_context:
        raise UsageError(say("error.nothing_to_continue"))
    require_idle(screen)
    await screen.ask(Wish(turn.prompt, True, turn.parent, continues=turn.id))


async def edit(screen: ChatScreen, argument: str) -> None:
    """Take the turn's prompt into the message box; sending it makes a new branch."""
    turn = current_turn(screen)
    screen.state.editing = turn
    screen.prompt.put(turn.prompt)
    screen.refresh_queue()


async def sibling(screen: ChatScreen, step: int) -> None:
    """Show the branch through the neighbouring answer."""
    turn = current_turn(screen)
    require_idle(screen)
    if (other := screen.branch.neighbour(turn, step)) is not None:
        screen.open_conversation(turn.conversation, other)


async def copy(screen: ChatScreen, argument: str) -> None:
    """Copy the reply."""
    screen.copy(current_turn(screen).reply)


async def copy_code(screen: ChatScreen, argument: str) -> None:
    """Copy the code blocks of the reply."""
    code = export.code_blocks(current_turn(screen).reply)
    if not code:
        raise UsageError(say("error.no_code"))
    if len(code) == 1:
        screen.copy(code[0])
        return

    def copy_one(number: str | None) -> None:
        if number is not None:
            screen.copy("\n\n".join(code) if number == "all" else code[int(number)])

    rows = [
        (str(i), f"{i + 1}. {one_line(block.strip(), 60)}", say("copy.lines", count=block.count("\n") + 1)) for i, block in enumerate(code)
    ]
    screen.app.push_screen(ChoiceDialog(say("command.turn_copy_code.name"), [*rows, ("all", say("copy.all"), "")]), copy_one)


async def reveal(screen: ChatScreen, argument: str) -> None:
    """Show a reply that was withdrawn, where the policy allows it; the log says that it was shown."""
    turn = current_turn(screen)
    if turn.finish != "blocked_output":
        raise UsageError(say("error.nothing_withheld"))
    text = await screen.attempt(lambda: withheld.reveal(screen.session, turn.id), quiet=True)
    if text is not None and (view := screen.transcript.view_of(turn.id)) is not None:
        await view.reveal(text)


async def expand(screen: ChatScreen, argument: str) -> None:
    """Fold or unfold a long prompt."""
    if view := screen.transcript.current():
        view.toggle_expanded()


async def inspect(screen: ChatScreen, argument: str) -> None:
    """Open the inspector on the turn."""
    turn = current_turn(screen)
    if not turn.in_context or not turn.reply:
        raise UsageError(say("error.nothing_to_inspect"))
    require_idle(screen)
    if not screen.session.ready:
        raise UsageError(say("error.still_loading"))
    from assistant.tui.screens.inspector import InspectorScreen

    def inspected(method: str | None) -> None:
        if method and (view := screen.transcript.current()) and view.turn and view.turn.id == turn.id:
            view.stages = replace(view.stages, attribution=method)
            screen.strip.show(view.stages)

    screen.app.push_screen(InspectorScreen(screen.session, turn.id), inspected)


async def audit(screen: ChatScreen, argument: str) -> None:
    """Open the audit browser."""
    _open_audit(screen, None)


async def safety(screen: ChatScreen, argument: str) -> None:
    """Open the audit browser on the turn."""
    _open_audit(screen, current_turn(screen))


def _open_audit(screen: ChatScreen, turn: Turn | None) -> None:
    from assistant.tui.screens.audit import AuditScreen

    def jump(target: tuple[str, str] | None) -> None:
        if target:
            screen.open_conversation(*target)

    screen.app.push_screen(AuditScreen(screen.session, turn.id if turn else None), jump)


async def cursor(screen: ChatScreen, step: int) -> None:
    """Move the message cursor."""
    await screen.transcript.move_cursor(step)
