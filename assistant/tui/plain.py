"""The chat line by line: for screen readers, dumb terminals and pipes. No cursor is moved and nothing is drawn twice.

The same conversation, checks and commands as on the screen. A reply is said paragraph by paragraph, each only after it was
moderated; what was said cannot be unsaid here, so a withdrawal is announced in words.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import IO

from assistant.errors import PellucidError, UsageError
from assistant.events import Finished, Moderated, Notice, Prefilled, PromptChecked, Text, Withdrawn
from assistant.pipeline import Request
from assistant.settings import convert
from assistant.tui import attachments, commands, export, personas, trace
from assistant.tui.backend import SessionLike
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState, Wish
from assistant.tui.format import footer, moment, verdict_words
from assistant.tui.generation import Ended, Failed, Generation, Item
from assistant.tui.reply_blocks import Blocks
from assistant.tui.sanitize import StreamSanitizer, one_line, sanitize
from assistant.tui.text import LANGUAGES, say
from assistant.turn import Turn
from safety.verdict import Action, Verdict

_POLL = 0.05  # seconds


def run_plain(session: SessionLike, *, conversation: str | None = None, stdin: IO[str] | None = None, stdout: IO[str] | None = None) -> int:
    """Talk until the input ends or /quit; returns the exit code."""
    say.use(session.settings.interface_language)
    chat = PlainChat(session, stdin or sys.stdin, stdout or sys.stdout)
    return chat.run(conversation)


class PlainChat:
    """One conversation at a time, in lines."""

    def __init__(self, session: SessionLike, stdin: IO[str], stdout: IO[str]) -> None:
        self._session, self._stdin, self._stdout = session, stdin, stdout
        self._branch = Branch()
        self._state = ChatState.fresh(session.settings)
        self._found: list[tuple[str, str | None]] = []  # what /list or /search numbered last
        self._over = False
        self._blocks, self._sanitizer = Blocks(), StreamSanitizer()

    def run(self, conversation: str | None) -> int:
        """The conversation from the greeting to the end of the input."""
        self._say(say("plain.welcome"))
        try:
            if conversation:
                self._open(conversation, None)
            if not self._session.ready:
                self._load()
        except PellucidError as error:
            self._say(say("plain.error", text=error))
        while not self._over and (message := self._read()) is not None:
            try:
                self._take(message)
            except PellucidError as error:
                self._say(say("plain.error", text=error))
            except KeyboardInterrupt:
                self._say(say("plain.interrupted"))
        return 0

    # -- reading and saying ------------------------------------------------------------------------------------------

    def _read(self) -> str | None:
        """One message: a line, or several that each end with a backslash. None at the end of the input."""
        lines: list[str] = []
        while True:
            self._stdout.write(say("plain.more") if lines else say("plain.you"))
            self._stdout.flush()
            try:
                line = self._stdin.readline()
            except KeyboardInterrupt:
                self._say("")
                return None
            if not line:
                return "\n".join(lines) if lines else None
            line = line.rstrip("\r\n")
            if line.endswith("\\"):
                lines.append(line[:-1])
                continue
            lines.append(line)
            if "\n".join(lines).strip():
                return "\n".join(lines)
            lines = []

    def _say(self, text: str) -> None:
        self._stdout.write(sanitize(text) + "\n")
        self._stdout.flush()

    def _load(self) -> None:
        last = ""

        def progress(what: str, fraction: float | None) -> None:
            nonlocal last
            if what != last:
                last = what
                self._say(say("status.loading", what=one_line(what, 80)))

        self._session.load(progress)

    # -- sending -----------------------------------------------------------------------------------------------------

    def _take(self, message: str) -> None:
        word, _, argument = message.strip()[1:].partition(" ")
        if message.startswith("/") and "\n" not in message and word.isascii() and word.isalpha():
            deed = self._deeds().get(word)
            if deed is None:
                commands.parse_slash("/" + word)  # raises with the nearest command
                raise UsageError(say("plain.only_on_screen", name=word))
            deed(argument.strip())
        else:
            self._send(self._state.wish(attachments.expand(message)))

    def _send(self, wish: Wish) -> None:
        if not self._session.ready:
            self._load()
        tip = self._branch.tip
        request = Request(
            prompt=wish.prompt,
            sampling=self._state.sampling,
            conversation=self._branch.conversation,
            parent=wish.parent if wish.branches else tip.id if tip else None,
            system=self._state.system,
        )
        self._blocks, self._sanitizer = Blocks(), StreamSanitizer()
        generation = Generation(self._session, request)
        running = True
        while running:
            try:
                for item in generation.drain():
                    running = running and not isinstance(item, Ended)
                    self._hear(item)
                time.sleep(_POLL if running else 0)
            except KeyboardInterrupt:
                generation.stop()

    def _hear(self, item: Item) -> None:
        match item:
            case PromptChecked():
                self._verdict("prompt", item.verdict)
                if item.verdict.action is Action.REDACT:
                    self._say(item.prompt)
            case Notice():
                self._say(say("plain.notice", text=item.text))
            case Prefilled():
                self._say(say("plain.assistant"))
            case Text():
                finished = self._blocks.feed(self._sanitizer.feed(item.text))
                if finished.strip():
                    self._say(finished.rstrip("\n"))
            case Withdrawn():
                self._blocks = Blocks()
                self._say(say("plain.withdrawn"))
                self._say(item.refusal)
            case Moderated() if item.final:
                if self._blocks.tail.strip():
                    self._say(self._blocks.tail.rstrip("\n"))
                self._verdict("reply", item.verdict)
            case Finished():
                self._branch.add(item.turn)
                if item.turn.finish == "blocked_prompt":
                    self._say(item.turn.reply)
                self._say(footer(item.turn, self._branch.position(item.turn)))
            case Failed():
                self._say(say("plain.error", text=item.error))
            case _:
                pass

    def _verdict(self, where: str, verdict: Verdict) -> None:
        self._say(say(f"plain.safety_{where}", verdict=verdict_words(verdict)))
        if verdict.action is not Action.ALLOW:
            help_text = say.get(f"advice.{verdict.category}", "")
            for line in (verdict.reason, help_text):
                if line:
                    self._say(line)

    # -- commands ----------------------------------------------------------------------------------------------------

    def _deeds(self) -> dict[str, Callable[[str], None]]:
        return {
            "help": self._help, "quit": self._quit, "new": self._new, "regenerate": self._regenerate, "continue": self._continue,
            "edit": self._edit, "inspect": self._inspect, "audit": self._audit, "search": self._search, "list": self._list,
            "open": self._open_number, "previous": lambda _: self._sibling(-1), "next": lambda _: self._sibling(1),
            "model": self._model, "persona": self._persona, "system": self._system, "set": self._set, "rename": self._rename,
            "export": self._export, "delete": self._delete, "language": self._language, "reload": lambda _: self._load(),
        }  # fmt: skip

    def _help(self, argument: str) -> None:
        known = self._deeds()
        for command in commands.COMMANDS:
            if command.slash and command.id in known:
                self._say(f"/{command.id}: {command.help}")
        for name in ("open", "previous", "next"):
            self._say(f"/{name}: {say('plain.help_' + name)}")
        self._say(say("plain.lines"))
        self._say(say("help.files"))

    def _quit(self, argument: str) -> None:
        self._over = True

    def _new(self, argument: str) -> None:
        self._branch, self._state = Branch(), ChatState.fresh(self._session.settings)
        self._say(say("plain.new"))

    def _tip(self) -> Turn:
        if self._branch.tip is None:
            raise UsageError(say("error.no_turn"))
        return self._branch.tip

    def _regenerate(self, argument: str) -> None:
        turn = self._tip()
        self._send(Wish(turn.prompt, True, turn.parent))

    def _continue(self, argument: str) -> None:
        turn = self._tip()
        self._send(Wish("请从停下的地方继续。" if turn.language == "zh" else "Please continue where you stopped."))

    def _edit(self, argument: str) -> None:
        turn = self._tip()
        if argument:
            self._send(Wish(argument, True, turn.parent))
        else:
            self._say(turn.prompt)
            self._say(say("plain.edit"))

    def _sibling(self, step: int) -> None:
        turn = self._tip()
        other = self._branch.neighbour(turn, step)
        if other is None:
            raise UsageError(say("plain.no_sibling"))
        self._open(turn.conversation, other)

    def _inspect(self, argument: str) -> None:
        from explain import render

        turn = self._tip()
        if not turn.in_context or not turn.reply:
            raise UsageError(say("error.nothing_to_inspect"))
        kept = self._session.ledger.attributions(turn.id)
        self._say(say("inspector.computing", what="…") if not kept else "")
        self._say(render.terminal(kept[-1] if kept else self._session.explain(turn.id), colour=False))

    def _audit(self, argument: str) -> None:
        ledger = self._session.ledger
        if argument:
            self._tree(trace.trace(ledger.turn(argument), ledger.attributions(argument)), 0)
            return
        for row in ledger.list_turns(limit=20):
            self._say(
                f"{row.turn} · {moment(row.created_us)} · {say.get('action.' + row.verdict, row.verdict)} · {one_line(row.prompt, 60)}"
            )

    def _tree(self, node: trace.Node, depth: int) -> None:
        self._say("  " * depth + node.text)
        for child in node.children:
            self._tree(child, depth + 1)

    def _list(self, argument: str) -> None:
        rows = self._session.ledger.conversations(20)
        self._found = [(row.id, None) for row in rows]
        for number, row in enumerate(rows, 1):
            self._say(f"{number}. {one_line(row.title, 60) or say('sidebar.untitled')} · {moment(row.updated_us)}")
        self._say(say("plain.open") if rows else say("sidebar.empty"))

    def _search(self, argument: str) -> None:
        hits = self._session.ledger.search(argument, limit=20) if argument else []
        self._found = [(hit.conversation, hit.turn) for hit in hits]
        for number, hit in enumerate(hits, 1):
            self._say(f"{number}. {say('side.' + hit.side)}: {one_line(hit.snippet, 100)}")
        self._say(say("plain.open") if hits else say("sidebar.nothing"))

    def _open_number(self, argument: str) -> None:
        if not argument.isdecimal() or not 1 <= int(argument) <= len(self._found):
            raise UsageError(say("plain.which"))
        self._open(*self._found[int(argument) - 1])

    def _open(self, conversation: str, turn: str | None) -> None:
        self._branch = Branch.through(self._session.ledger.turns(conversation), turn)
        self._state.continue_from(self._branch, self._session.settings)
        for one in self._branch.path[-3:]:
            self._say(say("plain.you") + (one.prompt or say("turn.erased")))
            self._say(say("plain.assistant"))
            self._say(one.reply)
            self._say(footer(one, self._branch.position(one)))

    def _model(self, argument: str) -> None:
        if not argument:
            from assistant.tui import models

            for name, about, description in models.choices():
                self._say(f"{name}: {about}. {description}")
            return
        self._session.settings = replace(self._session.settings, model=argument)
        self._session.engine = None
        self._load()

    def _persona(self, argument: str) -> None:
        known = {persona.id: persona for persona in personas.read_all()}
        if argument not in known:
            for persona in known.values():
                self._say(f"{persona.id}: {persona.name(say.language)}. {persona.about(say.language)}")
            return
        chosen = known[argument]
        self._state.system, self._state.persona = chosen.system(say.language), chosen.name(say.language)
        self._state.sampling = replace(self._state.sampling, **chosen.sampling)
        if chosen.policy != self._session.settings.policy:
            self._session.settings = replace(self._session.settings, policy=chosen.policy)
            self._session.guard = None
            self._load()
        self._say(self._state.persona)

    def _system(self, argument: str) -> None:
        if argument:
            self._state.system = argument
            self._say(say("system.changed"))
        else:
            self._say(self._state.system or "—")

    def _set(self, argument: str) -> None:
        sampling = self._state.sampling
        name, _, value = argument.partition(" ")
        names = [field.name for field in fields(sampling) if field.name not in ("seed", "stop")]
        if not name:
            self._say(", ".join(f"{n} {getattr(sampling, n)}" for n in names))
        elif name not in names:
            raise UsageError(say("error.unknown_parameter", name=one_line(name, 30), names=", ".join(names)))
        else:
            self._state.sampling = replace(sampling, **{name: convert(name, value, "/set")})
            self._say(f"{name} {getattr(self._state.sampling, name)}")

    def _rename(self, argument: str) -> None:
        self._session.ledger.rename(self._tip().conversation, argument)

    def _export(self, argument: str) -> None:
        self._tip()
        self._say(say("export.done", path=export.write(self._branch, argument)))

    def _delete(self, argument: str) -> None:
        from assistant.tui import auditing

        conversation = self._tip().conversation
        self._say(say("delete.conversation"))
        self._say(say("plain.sure"))
        if self._stdin.readline().strip().lower() in ("yes", "是"):
            auditing.redact(self._session.ledger, [], conversation, "deleted")
            self._new("")

    def _language(self, argument: str) -> None:
        chosen = argument or next(name for name in LANGUAGES if name != say.language)
        if chosen not in LANGUAGES:
            raise UsageError(say("error.unknown_language", name=one_line(chosen, 20)))
        self._session.settings = replace(self._session.settings, language=chosen)
        say.use(chosen)
        self._say(say("plain.welcome"))
