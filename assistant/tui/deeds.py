"""What each command of the chat screen does: one function a command, found by the command's id in `DEEDS`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from assistant.errors import UsageError
from assistant.settings import convert
from assistant.tui import auditing, export, personas
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState, Wish
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import ChoiceDialog, ConfirmDialog, InputDialog
from assistant.tui.stages import Stages
from assistant.tui.text import LANGUAGES, say
from assistant.turn import Sampling, Turn

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen

Deed = Callable[["ChatScreen", str], Awaitable[None]]


# -- the reply ---------------------------------------------------------------------------------------------------------


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
    turn = _turn(screen)
    _idle(screen)
    await screen.ask(Wish(turn.prompt, branches=True, parent=turn.parent))


async def continue_(screen: ChatScreen, argument: str) -> None:
    """Ask for the rest of a reply that was cut."""
    turn = screen.branch.tip
    if turn is None or not turn.in_context:
        raise UsageError(say("error.nothing_to_continue"))
    _idle(screen)
    await screen.ask(Wish("请从停下的地方继续。" if turn.language == "zh" else "Please continue where you stopped."))


async def edit(screen: ChatScreen, argument: str) -> None:
    """Take the turn's prompt into the message box; sending it makes a new branch."""
    turn = _turn(screen)
    screen.state.editing = turn
    screen.prompt.put(turn.prompt)
    screen.refresh_queue()


async def sibling(screen: ChatScreen, step: int) -> None:
    """Show the branch through the neighbouring answer."""
    turn = _turn(screen)
    _idle(screen)
    if (other := screen.branch.neighbour(turn, step)) is not None:
        screen.open_conversation(turn.conversation, other)


async def copy(screen: ChatScreen, argument: str) -> None:
    """Copy the reply."""
    screen.copy(_turn(screen).reply)


async def copy_code(screen: ChatScreen, argument: str) -> None:
    """Copy the code blocks of the reply."""
    code = export.code_blocks(_turn(screen).reply)
    if not code:
        raise UsageError(say("error.no_code"))
    screen.copy("\n\n".join(code))


async def expand(screen: ChatScreen, argument: str) -> None:
    """Fold or unfold a long prompt."""
    if view := screen.transcript.current():
        view.toggle_expanded()


async def inspect(screen: ChatScreen, argument: str) -> None:
    """Open the inspector on the turn."""
    turn = _turn(screen)
    if not turn.in_context or not turn.reply:
        raise UsageError(say("error.nothing_to_inspect"))
    _idle(screen)
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
    _open_audit(screen, _turn(screen))


def _open_audit(screen: ChatScreen, turn: Turn | None) -> None:
    from assistant.tui.screens.audit import AuditScreen

    def jump(target: tuple[str, str] | None) -> None:
        if target:
            screen.open_conversation(*target)

    screen.app.push_screen(AuditScreen(screen.session, turn.id if turn else None), jump)


# -- conversations -----------------------------------------------------------------------------------------------------


async def new(screen: ChatScreen, argument: str) -> None:
    """Begin a new conversation."""
    _idle(screen)
    screen.leave_conversation()
    screen.branch = Branch()
    screen.state = ChatState.fresh(screen.session.settings)
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
    conversation = _conversation(screen)

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
    _conversation(screen)
    path = await screen.attempt(lambda: export.write(screen.branch, argument))
    if path is not None:
        screen.tell(say("export.done", path=path))


async def delete(screen: ChatScreen, argument: str) -> None:
    """Erase the texts of the whole conversation."""
    _idle(screen)
    conversation = _conversation(screen)

    async def confirmed(sure: bool | None) -> None:
        if sure and await screen.attempt(lambda: auditing.redact(screen.session.ledger, [], conversation, "deleted")) is not None:
            await new(screen, "")
            screen.sidebar.refresh_rows()

    screen.app.push_screen(ConfirmDialog(say("delete.title"), say("delete.conversation"), say("delete.confirm")), confirmed)


async def delete_turn(screen: ChatScreen, argument: str) -> None:
    """Erase the texts of one turn."""
    _idle(screen)
    turn = _turn(screen)

    async def confirmed(sure: bool | None) -> None:
        if sure and await screen.attempt(lambda: auditing.redact(screen.session.ledger, [turn.id], None, "deleted")) is not None:
            screen.open_conversation(turn.conversation, turn.id)
            screen.sidebar.refresh_rows()

    screen.app.push_screen(ConfirmDialog(say("delete.title"), say("delete.turn"), say("delete.confirm")), confirmed)


# -- how to answer -----------------------------------------------------------------------------------------------------


async def system(screen: ChatScreen, argument: str) -> None:
    """Change the system prompt of this chat."""

    def save(text: str | None) -> None:
        if text is not None:
            screen.state.system = text
            screen.tell(say("system.changed"))

    if argument:
        save(argument)
    else:
        screen.app.push_screen(InputDialog(say("command.system.name"), screen.state.system), save)


async def persona(screen: ChatScreen, argument: str) -> None:
    """Answer as one of the personas."""
    known = {p.id: p for p in personas.read_all()}

    def choose(id: str | None) -> None:
        if id is None:
            return
        if id not in known:
            screen.tell(say("error.unknown_persona", name=id, names=", ".join(known)), "warning")
            return
        chosen = known[id]
        screen.state.system = chosen.system(say.language)
        screen.state.sampling = replace(screen.state.sampling, **chosen.sampling)
        screen.state.persona = chosen.name(say.language)
        screen.show_settings()
        if chosen.policy != screen.session.settings.policy:
            screen.change_setting("policy", chosen.policy)

    if argument:
        choose(argument)
    else:
        rows = [(p.id, p.name(say.language), p.about(say.language)) for p in known.values()]
        screen.app.push_screen(ChoiceDialog(say("command.persona.name"), rows), choose)


async def set_(screen: ChatScreen, argument: str) -> None:
    """Change one sampling parameter of this chat, as `temperature 0.2`; without argument show them all."""
    sampling = screen.state.sampling
    if not argument:
        screen.tell(" · ".join(f"{f.name} {getattr(sampling, f.name)}" for f in fields(Sampling)))
        return
    name, _, value = argument.partition(" ")
    if name == "seed":
        screen.state.sampling = replace(sampling, seed=None if value in ("", "none") else _whole(value))
    elif name == "stop":
        screen.state.sampling = replace(sampling, stop=tuple(value.split(" | ")) if value else ())
    elif name in {f.name for f in fields(Sampling)}:
        screen.state.sampling = replace(sampling, **{name: convert(name, value, "/set")})
    else:
        raise UsageError(say("error.unknown_parameter", name=name, names=", ".join(f.name for f in fields(Sampling))))
    screen.show_settings()
    screen.tell(f"{name} = {getattr(screen.state.sampling, name)}")


def _whole(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UsageError(say("error.not_a_number", value=one_line(value, 30))) from None


async def model(screen: ChatScreen, argument: str) -> None:
    """Answer with another model."""
    _idle(screen)

    def switch(name: str | None) -> None:
        if name and name != screen.session.settings.model:
            screen.change_setting("model", name)
            screen.session.engine = None
            screen.load_model()

    if argument:
        switch(argument)
    else:
        from assistant.tui import models

        rows = await screen.attempt(models.choices)
        if rows is not None:
            current = screen.session.settings.model
            screen.app.push_screen(ChoiceDialog(say("command.model.name"), rows, current), switch)


# -- the program -------------------------------------------------------------------------------------------------------


async def editor(screen: ChatScreen, argument: str) -> None:
    """Write the message in the editor named by VISUAL or EDITOR."""
    from assistant.tui import external_editor

    text = external_editor.edit(screen.app, screen.prompt.text)
    if text is not None:
        screen.prompt.load_text(text.rstrip("\n"))
        screen.prompt.move_cursor(screen.prompt.document.end)


async def settings(screen: ChatScreen, argument: str) -> None:
    """Open the settings."""
    from assistant.tui.screens.settings import SettingsScreen

    screen.app.push_screen(SettingsScreen(screen.session.settings), screen.take_settings)


async def theme(screen: ChatScreen, argument: str) -> None:
    """Change the colours."""
    names = sorted(screen.app.available_themes)

    def choose(name: str | None) -> None:
        if name is None:
            return
        if name not in names:
            screen.tell(say("error.unknown_theme", name=name), "warning")
        else:
            screen.change_setting("theme", name)

    if argument:
        choose(argument)
    else:
        rows = [(name, name, "") for name in names]
        screen.app.push_screen(ChoiceDialog(say("command.theme.name"), rows, screen.app.theme), choose)


async def language(screen: ChatScreen, argument: str) -> None:
    """Switch between Chinese and English."""
    chosen = argument or next(name for name in LANGUAGES if name != say.language)
    if chosen not in LANGUAGES:
        raise UsageError(say("error.unknown_language", name=one_line(chosen, 20)))
    screen.change_setting("language", chosen)


async def reload(screen: ChatScreen, argument: str) -> None:
    """Load the model again, after its load failed."""
    if screen.load_error is None:
        raise UsageError(say("error.model_is_loaded"))
    screen.load_model()


async def help_(screen: ChatScreen, argument: str) -> None:
    """Show all keys and commands."""
    from assistant.tui.screens.help import HelpScreen

    screen.app.push_screen(HelpScreen())


async def quit_(screen: ChatScreen, argument: str) -> None:
    """Leave. A reply in the making is stopped and kept."""
    screen.app.exit(0)


# -- what the deeds need -----------------------------------------------------------------------------------------------


def _turn(screen: ChatScreen) -> Turn:
    view = screen.transcript.current()
    if view is None or view.turn is None:
        raise UsageError(say("error.no_turn"))
    return view.turn


def _conversation(screen: ChatScreen) -> str:
    if screen.branch.conversation is None:
        raise UsageError(say("error.no_turn"))
    return screen.branch.conversation


def _idle(screen: ChatScreen) -> None:
    if screen.generation is not None:
        raise UsageError(say("chat.busy"))


async def _cursor(screen: ChatScreen, step: int) -> None:
    await screen.transcript.move_cursor(step)


DEEDS: dict[str, Deed] = {
    "stop": stop, "new": new, "regenerate": regenerate, "continue": continue_, "edit": edit, "inspect": inspect,
    "audit": audit, "search": search, "list": list_, "model": model, "persona": persona, "system": system, "set": set_,
    "rename": rename, "export": export_, "delete": delete, "editor": editor, "settings": settings, "theme": theme,
    "language": language, "reload": reload, "help": help_, "quit": quit_,
    "cursor_up": lambda screen, argument: _cursor(screen, -1),
    "cursor_down": lambda screen, argument: _cursor(screen, +1),
    "turn_copy": copy, "turn_copy_code": copy_code, "turn_edit": edit, "turn_regenerate": regenerate,
    "turn_previous": lambda screen, argument: sibling(screen, -1),
    "turn_next": lambda screen, argument: sibling(screen, +1),
    "turn_inspect": inspect, "turn_safety": safety, "turn_expand": expand, "turn_delete": delete_turn,
}  # fmt: skip
