"""Deeds that change how this chat is answered."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from assistant.tui import models, personas
from assistant.tui.chat_state import with_parameter
from assistant.tui.deeds.demands import require_idle
from assistant.tui.sanitize import one_line
from assistant.tui.screens.dialogs import ChoiceDialog, ConfirmDialog, InputDialog
from assistant.tui.screens.pull import PullDialog
from assistant.tui.text import say
from assistant.turn import Sampling

if TYPE_CHECKING:
    from assistant.tui.screens.chat import ChatScreen


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
        screen.state.wear(chosen, say.language, screen.session.settings)
        screen.take_policy(chosen)
        screen.show_settings()

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
    screen.state.sampling = with_parameter(sampling, name, value)
    screen.show_settings()
    screen.tell(f"{name} = {getattr(screen.state.sampling, name)}")


async def model(screen: ChatScreen, argument: str) -> None:
    """Answer with another model."""
    require_idle(screen)

    def switch(name: str) -> None:
        screen.change_setting("model", name)
        screen.session.engine = None
        screen.load_model()

    async def choose(name: str | None) -> None:
        if not name or name == screen.session.settings.model:
            return
        question = await screen.attempt(lambda: models.must_be_fetched(name), quiet=True)
        if question is None:
            return
        if not question:
            switch(name)
            return

        def agreed(sure: bool | None) -> None:
            if sure:
                screen.app.push_screen(PullDialog(name), lambda there: switch(name) if there else None)

        screen.app.push_screen(ConfirmDialog(say("pull.title", name=one_line(name, 40)), question, say("pull.confirm")), agreed)

    if argument:
        await choose(argument)
    else:
        rows = await screen.attempt(models.choices)
        if rows is not None:
            current = screen.session.settings.model
            screen.app.push_screen(ChoiceDialog(say("command.model.name"), rows, current), choose)
