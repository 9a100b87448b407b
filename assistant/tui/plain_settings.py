"""The settings in words, for the line mode: `/settings` lists them, `/settings NAME` explains one, `/settings NAME VALUE` changes it for
this run, `/settings save` keeps what was changed."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from assistant import paths
from assistant.errors import UsageError
from assistant.settings import Settings, convert, field_help
from assistant.tui import config_file
from assistant.tui.chat_state import NOT_HERE, OF_THE_ENGINE
from assistant.tui.sanitize import one_line
from assistant.tui.text import say

if TYPE_CHECKING:
    from assistant.tui.plain import PlainChat


def do(chat: PlainChat, argument: str) -> None:
    """Do what the line says. Raises UsageError."""
    name, _, value = argument.partition(" ")
    names = [f.name for f in fields(Settings) if f.name not in NOT_HERE]
    if not name:
        for one in names:
            chat.say(f"{one}: {one_line(str(getattr(chat.session.settings, one)), 80) or '—'}")
        chat.say(say("plain.settings_how"))
    elif name == "save":
        values = {one: getattr(chat.session.settings, one) for one in names}
        changed = {one: value for one, value in values.items() if value != getattr(chat.first_settings, one)}
        if changed:
            config_file.save(paths.config_file(), changed)
        chat.say(say("settings.saved", path=paths.config_file()))
    elif name not in names:
        raise UsageError(say("error.unknown_parameter", name=one_line(name, 30), names=", ".join(names)))
    elif not value.strip():
        chat.say(f"{name}: {one_line(str(getattr(chat.session.settings, name)), 80) or '—'}")
        chat.say(say.get(f"setting.{name}", field_help().get(name, "")))
    else:
        take(chat, replace(chat.session.settings, **{name: convert(name, value.strip(), f"/settings {name}")}))
        chat.say(f"{name}: {one_line(str(getattr(chat.session.settings, name)), 80)}")


def take(chat: PlainChat, settings: Settings) -> None:
    """Go on under other settings; what must be loaded again is loaded again. Where that fails the ones before stay in force."""
    session, before = chat.session, chat.session.settings
    engine, guard = session.engine, session.guard
    session.settings = settings
    if settings.policy != before.policy or settings.guard != before.guard:
        session.guard = None
    if any(getattr(settings, name) != getattr(before, name) for name in OF_THE_ENGINE):
        session.engine = None
    try:
        if not session.ready:
            chat.load()
    except BaseException:
        session.settings, session.engine, session.guard = before, engine, guard
        raise
    if settings.sampling() != before.sampling():
        chat.state.sampling = settings.sampling()
    if settings.policy != before.policy:
        chat.own_policy = settings.policy
    if settings.system != before.system and chat.branch.tip is None:
        chat.state.system = settings.system
    say.use(settings.interface_language)
