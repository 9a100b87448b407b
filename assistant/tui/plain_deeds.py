"""What the slash commands do in the line mode: the same deeds as on the screen, told in words."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from assistant.continuing import require_cut
from assistant.errors import ModelError, UsageError
from assistant.tui import commands, export, personas
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState, Wish, with_parameter
from assistant.tui.format import footer, moment
from assistant.tui.sanitize import one_line
from assistant.tui.text import LANGUAGES, say
from assistant.turn import Turn

if TYPE_CHECKING:
    from assistant.tui.plain import PlainChat


class PlainDeeds:
    """The commands of one line-mode chat."""

    def __init__(self, chat: PlainChat) -> None:
        self._chat = chat

    def by_name(self) -> dict[str, Callable[[str], None]]:
        """Each command's deed, given the rest of its line."""
        return {
            "help": self._help, "quit": self._quit, "new": self._new, "regenerate": self._regenerate, "continue": self._continue,
            "edit": self._edit, "inspect": self._inspect, "audit": self._chat.audit.do, "search": self._search, "list": self._list,
            "open": self._open_number, "previous": lambda _: self._sibling(-1), "next": lambda _: self._sibling(1),
            "model": self._model, "persona": self._persona, "system": self._system, "set": self._set, "rename": self._rename,
            "export": self._export, "delete": self._delete,
            "settings": self._settings, "reveal": self._reveal, "language": self._language, "reload": lambda _: self._chat.load(),
        }  # fmt: skip

    def _help(self, argument: str) -> None:
        known = self.by_name()
        for command in commands.COMMANDS:
            if command.slash and command.id in known:
                self._chat.say(f"/{command.id}: {command.help}")
        for name in ("open", "previous", "next"):
            self._chat.say(f"/{name}: {say('plain.help_' + name)}")
        self._chat.say(say("plain.lines"))
        self._chat.say(say("help.files"))

    def _quit(self, argument: str) -> None:
        self._chat.over = True

    def _new(self, argument: str) -> None:
        self._chat.branch, self._chat.state = Branch(), ChatState.fresh(self._chat.session.settings)
        self._chat.say(say("plain.new"))
        self._take_policy(self._chat.own_policy)

    def _tip(self) -> Turn:
        if self._chat.branch.tip is None:
            raise UsageError(say("error.no_turn"))
        return self._chat.branch.tip

    def _regenerate(self, argument: str) -> None:
        turn = self._tip()
        self._chat.send(Wish(turn.prompt, True, turn.parent))

    def _continue(self, argument: str) -> None:
        turn = self._tip()
        require_cut(turn)
        self._chat.send(Wish(turn.prompt, True, turn.parent, continues=turn.id))

    def _edit(self, argument: str) -> None:
        turn = self._tip()
        if argument:
            self._chat.send(Wish(argument, True, turn.parent))
        else:
            self._chat.say(turn.prompt)
            self._chat.say(say("plain.edit"))

    def _sibling(self, step: int) -> None:
        turn = self._tip()
        other = self._chat.branch.neighbour(turn, step)
        if other is None:
            raise UsageError(say("plain.no_sibling"))
        self.open(turn.conversation, other)

    def _inspect(self, argument: str) -> None:
        from assistant.tui import plain_inspect

        turn = self._tip()
        self._chat.say(say("inspector.computing", what="…"))
        for line in plain_inspect.inspect(self._chat.session, turn, argument):
            self._chat.say(line)

    def _settings(self, argument: str) -> None:
        from assistant.tui import plain_settings

        plain_settings.do(self._chat, argument)

    def _list(self, argument: str) -> None:
        rows = self._chat.session.ledger.conversations(20)
        self._chat.found = [(row.id, None) for row in rows]
        for number, row in enumerate(rows, 1):
            self._chat.say(f"{number}. {one_line(row.title, 60) or say('sidebar.untitled')} · {moment(row.updated_us)}")
        self._chat.say(say("plain.open") if rows else say("sidebar.empty"))

    def _search(self, argument: str) -> None:
        hits = self._chat.session.ledger.search(argument, limit=20) if argument else []
        self._chat.found = [(hit.conversation, hit.turn) for hit in hits]
        for number, hit in enumerate(hits, 1):
            self._chat.say(f"{number}. {say('side.' + hit.side)}: {one_line(hit.snippet, 100)}")
        self._chat.say(say("plain.open") if hits else say("sidebar.nothing"))

    def _open_number(self, argument: str) -> None:
        if not argument.isdecimal() or not 1 <= int(argument) <= len(self._chat.found):
            raise UsageError(say("plain.which"))
        self.open(*self._chat.found[int(argument) - 1])

    def open(self, conversation: str, turn: str | None) -> None:
        """Go on with a logged conversation; its last turns are said again."""
        before = self._chat.branch.conversation
        self._chat.branch = Branch.through(self._chat.session.ledger.turns(conversation), turn)
        same = before == self._chat.branch.conversation
        self._chat.state.continue_from(self._chat.branch, self._chat.session.settings, same=same)
        if not same:
            persona = personas.of_system(self._chat.state.system)
            self._chat.state.recall(persona, say.language)
            self._take_policy(persona.policy if persona else self._chat.own_policy)
        for one in self._chat.branch.path[-3:]:
            self._chat.say(say("plain.you") + (one.prompt or say("turn.erased")))
            self._chat.say(say("plain.assistant"))
            self._chat.say(one.reply)
            self._chat.say(footer(one, self._chat.branch.position(one)))

    def _model(self, argument: str) -> None:
        if not argument:
            from assistant.tui import models

            for name, about, description in models.choices():
                self._chat.say(f"{name}: {about}. {description}")
            return
        from assistant.tui import models, plain_settings

        question = ""
        with contextlib.suppress(ModelError):  # a name that nobody knows is refused by the load
            question = models.must_be_fetched(argument)
        if question:
            self._chat.say(question)
            if not self._chat.agrees():
                return
            models.fetch(argument, self._chat.progress(), threading.Event())
        plain_settings.take(self._chat, replace(self._chat.session.settings, model=argument))

    def _persona(self, argument: str) -> None:
        known = {persona.id: persona for persona in personas.read_all()}
        if argument not in known:
            for persona in known.values():
                self._chat.say(f"{persona.id}: {persona.name(say.language)}. {persona.about(say.language)}")
            return
        chosen = known[argument]
        self._chat.state.wear(chosen, say.language, self._chat.session.settings)
        self._take_policy(chosen.policy)
        self._chat.say(self._chat.state.persona)

    def _take_policy(self, policy: str) -> None:
        """Check by this policy from now on, and say so."""
        if policy == self._chat.session.settings.policy:
            return
        from assistant.tui import plain_settings

        own = self._chat.own_policy
        self._chat.say(say("status.policy", policy=policy))
        plain_settings.take(self._chat, replace(self._chat.session.settings, policy=policy))
        self._chat.own_policy = own

    def _system(self, argument: str) -> None:
        if argument:
            self._chat.state.system = argument
            self._chat.say(say("system.changed"))
        else:
            self._chat.say(self._chat.state.system or "—")

    def _set(self, argument: str) -> None:
        sampling = self._chat.state.sampling
        name, _, value = argument.partition(" ")
        if not name:
            self._chat.say(", ".join(f"{field.name} {getattr(sampling, field.name)}" for field in fields(sampling)))
        else:
            self._chat.state.sampling = with_parameter(sampling, name, value)
            self._chat.say(f"{name} {getattr(self._chat.state.sampling, name)}")

    def _rename(self, argument: str) -> None:
        if not argument:
            raise UsageError(say("plain.rename"))
        self._chat.session.ledger.rename(self._tip().conversation, argument)

    def _export(self, argument: str) -> None:
        self._tip()
        self._chat.say(say("export.done", path=export.write(self._chat.branch, argument)))

    def _delete(self, argument: str) -> None:
        from assistant.tui import auditing

        turn = self._tip()
        self._chat.say(say("delete.turn" if argument == "turn" else "delete.conversation"))
        if not self._chat.agrees():
            return
        if argument == "turn":
            auditing.redact(self._chat.session.ledger, [turn.id], None, "deleted")
            self.open(turn.conversation, turn.id)
        else:
            auditing.redact(self._chat.session.ledger, [], turn.conversation, "deleted")
            self._new("")

    def _reveal(self, argument: str) -> None:
        from assistant.tui import withheld

        self._chat.say(withheld.reveal(self._chat.session, self._tip().id))

    def _language(self, argument: str) -> None:
        chosen = argument or next(name for name in LANGUAGES if name != say.language)
        if chosen not in LANGUAGES:
            raise UsageError(say("error.unknown_language", name=one_line(chosen, 20)))
        self._chat.session.settings = replace(self._chat.session.settings, language=chosen)
        say.use(chosen)
        self._chat.say(say("plain.welcome"))
