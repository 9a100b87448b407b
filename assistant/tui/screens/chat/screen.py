"""The chat: conversations on the left, the transcript, the strip, the message box. Loads, sends, shows; decides nothing.

What a person can ask for is in `deeds`; here is what happens by itself. The screen is made of parts that build on one another: widgets and
state (`base`), drafts, conversations, replies being written; and, in this file, the model, the settings and the keys.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace

from textual import on
from textual.events import Key
from textual.message import Message
from textual.widgets import Input, TextArea

from assistant.errors import PellucidError, UsageError
from assistant.settings import Settings, convert
from assistant.tui import attachments, commands, deeds
from assistant.tui.chat_state import OF_THE_ENGINE
from assistant.tui.loading import Loaded, LoadFailed, LoadProgress, load_in_background
from assistant.tui.memory import give_back
from assistant.tui.personas import Persona
from assistant.tui.screens.chat.writing import Writing
from assistant.tui.text import say
from assistant.tui.told import told
from assistant.tui.widgets.markdown import CodeBlock
from assistant.tui.widgets.prompt import PromptInput
from assistant.tui.widgets.sidebar import Sidebar
from assistant.tui.widgets.status import StatusLine
from assistant.tui.widgets.strip import Strip
from assistant.tui.widgets.transcript import Transcript
from assistant.tui.widgets.turn_view import TurnView

_REFRESH = 0.15  # seconds: seven updates a second look smooth and leave the processor to the model


@dataclass
class SettingsChanged(Message):
    """The program runs under other settings from now on."""

    settings: Settings


class ChatScreen(Writing):
    """One conversation at a time."""

    async def on_mount(self) -> None:
        self.transcript = self.query_one(Transcript)
        self.strip = self.query_one(Strip)
        self.prompt = self.query_one(PromptInput)
        self.status = self.query_one(StatusLine)
        self.sidebar = self.query_one(Sidebar)
        self._ticker = self.set_interval(_REFRESH, self.tick, pause=True)
        await self.transcript.show(self.branch)
        self.prompt.focus()
        self.retranslate()
        self.show_settings()
        if self._first_conversation:
            self.open_conversation(self._first_conversation)
        else:
            self._recall_prompts()
        self._drafts.read()
        if not self._first_conversation:
            self.take_up_draft()
        if self._recovered:
            self.tell(say.counted("chat.recovered", self._recovered), "warning")
        self.call_after_refresh(self._painted)

    def _painted(self) -> None:
        """Everything stands on the screen: now the model may take the processor."""
        gc.freeze()  # what lives as long as the program is not looked through again and again
        gc.enable()
        if not self.session.ready and not self.status.status.loading:
            self.load_model()

    # -- the model ---------------------------------------------------------------------------------------------------

    def load_model(self) -> None:
        """Load the model behind the screen."""
        self.load_error = None
        self.status.change(loading=self.session.settings.model, fraction=None, failed=False)
        load_in_background(self.session, self.post_message)

    @on(LoadProgress)
    def _progress(self, event: LoadProgress) -> None:
        self.status.change(loading=event.what, fraction=event.fraction)

    @on(Loaded)
    async def _loaded(self) -> None:
        gc.freeze()
        self.show_settings()
        await self._pump()

    @on(LoadFailed)
    def _load_failed(self, event: LoadFailed) -> None:
        self.load_error = event.error
        self.status.change(loading="", failed=True)
        for wish in reversed(self.state.take_back_all()):
            self.prompt.put(wish)
        self.refresh_queue()
        self.show_error(event.error, say("error.load_title"))

    # -- what the person does ----------------------------------------------------------------------------------------------

    @on(PromptInput.Submitted)
    async def _submitted(self, event: PromptInput.Submitted) -> None:
        try:
            found = commands.parse_slash(event.text.strip())
            if found is None:
                wish = self.state.wish(attachments.expand(event.text))
        except UsageError as error:  # the text stays in the box
            self.tell(told(error), "warning")
            return
        self.prompt.take()
        if found is not None:
            await self.action_command(found[0].id, found[1])
            return
        self.state.queue.append(wish)
        self.refresh_queue()
        if self.load_error is not None:
            self.load_model()
        await self._pump()

    @on(CodeBlock.Copied)
    def _code_copied(self, event: CodeBlock.Copied) -> None:
        self.copy(event.code)

    async def action_command(self, id: str, argument: str = "") -> None:
        """Do what command `id` says."""
        try:
            await deeds.DEEDS[id](self, argument)
        except PellucidError as error:
            self.tell(told(error), "warning")

    def on_key(self, event: Key) -> None:
        """Typing where nothing takes text goes into the message box."""
        if event.is_printable and event.character and not isinstance(self.focused, Input | TextArea | TurnView):
            event.stop()
            self.prompt.focus()
            self.prompt.insert(event.character)

    def action_to_prompt(self) -> None:
        """Leave the message cursor."""
        self.prompt.focus()

    @on(PromptInput.EditLast)
    async def _edit_last(self) -> None:
        await self.action_command("edit")

    @on(Transcript.Pruned)
    def _pruned(self) -> None:
        self.session.ledger.release_memory()
        self.call_after_refresh(give_back)

    @on(Strip.Opened)
    async def _strip_opened(self) -> None:
        await self.action_command("turn_safety")

    # -- settings ----------------------------------------------------------------------------------------------------

    def change_setting(self, name: str, value: object) -> None:
        """Change one setting of the running program. Raises UsageError when the value cannot be."""
        self.take_settings(replace(self.session.settings, **{name: convert(name, value, f"/{name}")}))

    def take_policy(self, persona: Persona | None) -> None:
        """Check by the policy of `persona`, or again by the person's own; a reply in the making is checked to its end as it began."""
        own = self.own_policy
        wanted = persona.policy if persona else own
        if wanted != self.session.settings.policy:
            self.change_setting("policy", wanted)
        self.own_policy = own

    def take_settings(self, settings: Settings | None) -> None:
        """Go on under other settings: what they change is changed now, what must be loaded again is loaded again."""
        before = self.session.settings
        if settings is None or settings == before:
            return
        self.session.settings = settings
        if settings.sampling() != before.sampling():
            self.state.sampling = settings.sampling()
        if settings.system != before.system and self.branch.tip is None:
            self.state.system = settings.system
        self.app.post_message(SettingsChanged(settings))
        if settings.policy != before.policy:
            self.own_policy = settings.policy
        if (settings.policy, settings.guard) != (before.policy, before.guard):
            self.session.guard = None
        if any(getattr(settings, name) != getattr(before, name) for name in OF_THE_ENGINE):
            self.session.engine = None
        if not self.session.ready and self.generation is None:
            self.load_model()
        self.show_settings()
