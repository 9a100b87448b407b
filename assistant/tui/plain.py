"""The chat line by line: for screen readers, dumb terminals and pipes. No cursor is moved and nothing is drawn twice.

The same conversation, checks and commands as on the screen. A reply is said paragraph by paragraph, each only after it was
moderated; what was said cannot be unsaid here, so a withdrawal is announced in words.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO

from assistant.errors import PellucidError, UsageError
from assistant.events import Finished, Moderated, Notice, Prefilled, PromptChecked, Text, Withdrawn
from assistant.pipeline import Request
from assistant.tui import attachments, commands
from assistant.tui.backend import SessionLike
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState, Wish
from assistant.tui.format import category, footer, verdict_words
from assistant.tui.generation import Ended, Failed, Generation, Item
from assistant.tui.plain_audit import PlainAudit
from assistant.tui.plain_deeds import PlainDeeds
from assistant.tui.reply_blocks import Blocks
from assistant.tui.sanitize import StreamSanitizer, one_line, sanitize
from assistant.tui.text import say
from assistant.tui.thresholds import limits
from assistant.tui.told import told
from safety.verdict import Action, Verdict

_POLL = 0.05  # seconds


def run_plain(
    session: SessionLike,
    *,
    conversation: str | None = None,
    recovered: int = 0,
    stdin: IO[str] | None = None,
    stdout: IO[str] | None = None,
) -> int:
    """Talk until the input ends or /quit; returns the exit code. `recovered` replies were cut off when the program ended last."""
    say.use(session.settings.interface_language)
    chat = PlainChat(session, stdin or sys.stdin, stdout or sys.stdout)
    if recovered:
        chat.say(say.counted("chat.recovered", recovered))
    return chat.run(conversation)


class PlainChat:
    """One conversation at a time, in lines."""

    def __init__(self, session: SessionLike, stdin: IO[str], stdout: IO[str]) -> None:
        self.session, self.stdin, self._stdout = session, stdin, stdout
        self.branch = Branch()
        self.state = ChatState.fresh(session.settings)
        self.first_settings = session.settings
        self.audit = PlainAudit(self)
        self.own_policy = session.settings.policy  # a persona may bring another for its conversations
        self.found: list[tuple[str, str | None]] = []  # what /list or /search numbered last
        self.over = False
        self._blocks, self._sanitizer = Blocks(), StreamSanitizer()

    def run(self, conversation: str | None) -> int:
        """The conversation from the greeting to the end of the input."""
        self.say(say("plain.welcome"))
        try:
            if conversation:
                PlainDeeds(self).open(conversation, None)
            if not self.session.ready:
                self.load()
        except PellucidError as error:
            self.say(say("plain.error", text=told(error)))
        while not self.over and (message := self._read()) is not None:
            try:
                self._take(message)
            except PellucidError as error:
                self.say(say("plain.error", text=told(error)))
            except KeyboardInterrupt:
                self.say(say("plain.interrupted"))
        return 0

    # -- reading and saying ------------------------------------------------------------------------------------------

    def _read(self) -> str | None:
        """One message: a line, or several that each end with a backslash. None at the end of the input."""
        lines: list[str] = []
        while True:
            self._stdout.write(say("plain.more") if lines else say("plain.you"))
            self._stdout.flush()
            try:
                line = self.stdin.readline()
            except KeyboardInterrupt:
                self.say("")
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

    def say(self, text: str) -> None:
        """Say a line or more, sanitised."""
        self._stdout.write(sanitize(text) + "\n")
        self._stdout.flush()

    def agrees(self) -> bool:
        """Ask whether to go on."""
        self.say(say("plain.sure"))
        return self.stdin.readline().strip().lower() in ("yes", "是")

    def progress(self) -> Callable[[str, float | None], None]:
        """Tells what is being done, each thing once."""
        last = ""

        def tell(what: str, fraction: float | None) -> None:
            nonlocal last
            if what != last:
                last = what
                self.say(say("status.loading", what=one_line(told(what), 80)))

        return tell

    def load(self) -> None:
        """Load the model, telling what is being done."""
        self.session.load(self.progress())

    # -- sending -----------------------------------------------------------------------------------------------------

    def _take(self, message: str) -> None:
        word, _, argument = message.strip()[1:].partition(" ")
        if message.startswith("/") and "\n" not in message and word.isascii() and word.isalpha():
            deed = PlainDeeds(self).by_name().get(word)
            if deed is None:
                commands.parse_slash("/" + word)  # raises with the nearest command
                raise UsageError(say("plain.only_on_screen", name=word))
            deed(argument.strip())
        else:
            self.send(self.state.wish(attachments.expand(message)))

    def send(self, wish: Wish) -> None:
        """Send a prompt and say what comes of it; Ctrl+C stops the reply, which is kept."""
        if not self.session.ready:
            self.load()
        tip = self.branch.tip
        request = Request(
            prompt=wish.prompt,
            sampling=self.state.sampling,
            conversation=self.branch.conversation,
            parent=wish.parent if wish.branches else tip.id if tip else None,
            system=self.state.system,
            continues=wish.continues,
        )
        self._blocks, self._sanitizer = Blocks(), StreamSanitizer()
        generation = Generation(self.session, request)
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
                self._verdict("prompt", item.verdict, item.prompt)
                if item.verdict.action is Action.REDACT:
                    self.say(item.prompt)
            case Notice():
                self.say(say("plain.notice", text=item.text))
            case Prefilled():
                self.say(say("plain.assistant"))
            case Text():
                finished = self._blocks.feed(self._sanitizer.feed(item.text))
                if finished.strip():
                    self.say(finished.rstrip("\n"))
            case Withdrawn():
                self._blocks = Blocks()
                self.say(say("plain.withdrawn"))
                self.say(item.refusal)
            case Moderated() if item.final:
                if self._blocks.tail.strip():
                    self.say(self._blocks.tail.rstrip("\n"))
                self._verdict("reply", item.verdict)
            case Finished():
                self.branch.add(item.turn)
                if item.turn.finish == "blocked_prompt":
                    self.say(item.turn.reply)
                self.say(footer(item.turn, self.branch.position(item.turn)))
            case Failed():
                self.say(say("plain.error", text=told(item.error)))
            case _:
                pass

    def _verdict(self, where: str, verdict: Verdict, text: str = "") -> None:
        self.say(say(f"plain.safety_{where}", verdict=verdict_words(verdict)))
        if verdict.action is Action.ALLOW:
            return
        help_text = say.get(f"advice.{verdict.category}", "")
        for line in (verdict.reason, help_text, self._why(where, verdict), self._words(verdict, text)):
            if line:
                self.say(line)

    def _why(self, where: str, verdict: Verdict) -> str:
        """The scores against the thresholds they reached, as long as the verdict was given under those in force."""
        if getattr(self.session.guard, "policy", None) != verdict.policy:
            return ""
        reached = limits(verdict, "prompt" if where == "prompt" else "response")
        over = [f"{category(n)} {s:.2f} ≥ {reached[n]:.2f}" for n, s in verdict.categories.items() if n in reached and s >= reached[n]]
        return say("plain.scores", scores=", ".join(over)) if over else ""

    def _words(self, verdict: Verdict, text: str) -> str:
        """The words that were found; those of a text that is redacted are not said again."""
        if verdict.action is Action.REDACT:
            return ""
        found = dict.fromkeys(f"“{one_line(text[f.start : f.end], 40)}”" for f in verdict.findings if text[f.start : f.end].strip())
        return say("plain.found", words=", ".join(found)) if found else ""
