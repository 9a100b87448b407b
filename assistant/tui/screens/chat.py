"""The chat: conversations on the left, the transcript, the strip, the message box. Loads, sends, shows; decides
nothing.

What a person can ask for is in `deeds`; here is what happens by itself: the model comes, events arrive, prompts queue.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Key
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, TextArea

from assistant import paths
from assistant.errors import PellucidError, UsageError
from assistant.events import Event, Finished, Prefilled, PromptChecked, Token
from assistant.pipeline import Request
from assistant.settings import Settings, convert
from assistant.tui import attachments, commands, deeds
from assistant.tui.backend import SessionLike
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState, Wish
from assistant.tui.drafts import Drafts
from assistant.tui.generation import Ended, Failed, Generation
from assistant.tui.loading import Loaded, LoadFailed, LoadProgress, load_in_background
from assistant.tui.sanitize import sanitize
from assistant.tui.screens.telling import TellingScreen
from assistant.tui.stages import Stages
from assistant.tui.text import say
from assistant.tui.told import told
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.markdown import CodeBlock
from assistant.tui.widgets.prompt import PromptInput
from assistant.tui.widgets.sidebar import PAGE, Sidebar
from assistant.tui.widgets.status import StatusLine
from assistant.tui.widgets.strip import Strip
from assistant.tui.widgets.transcript import WINDOW, Transcript
from assistant.tui.widgets.turn_view import TurnView
from assistant.tui.widgets.welcome import Welcome

_OF_THE_ENGINE = ("model", "device", "dtype", "threads", "context")
_DRAFT_EVERY = 1.0  # seconds
_COUNT_EVERY = 0.5  # seconds
_REFRESH = 0.125  # seconds: eight updates a second look smooth and leave the processor to the model


@dataclass
class SettingsChanged(Message):
    """The program runs under other settings from now on."""

    settings: Settings


class ChatScreen(TellingScreen[None]):
    """One conversation at a time."""

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings("chat")]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide")]  # noqa: RUF012 (declared by Screen)
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (9, "-short"), (16, "-tall")]  # noqa: RUF012

    def __init__(self, session: SessionLike, conversation: str | None = None, recovered: int = 0) -> None:
        super().__init__()
        self.session = session
        self.state = ChatState.fresh(session.settings)
        self.branch = Branch()
        self.generation: Generation | None = None
        self.load_error: Exception | None = None
        self._live: TurnView | None = None
        self._read_tokens = 0
        self._counted_at = 0.0
        self._first_conversation = conversation
        self._recovered = recovered
        self._drafts = Drafts(paths.state_dir() / "drafts.json")
        self._draft_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="columns"):
            yield Sidebar(id="sidebar")
            with Vertical(id="main"):
                yield Transcript(Welcome(), id="transcript")
                yield Strip(id="strip")
                yield PromptInput(id="prompt")
                yield StatusLine(id="status")
        yield KeyBar(id="keys")

    async def on_mount(self) -> None:
        self.transcript = self.query_one(Transcript)
        self.strip = self.query_one(Strip)
        self.prompt = self.query_one(PromptInput)
        self.status = self.query_one(StatusLine)
        self.sidebar = self.query_one(Sidebar)
        self._ticker = self.set_interval(_REFRESH, self._drain, pause=True)
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
        if not self.session.ready:
            self.load_model()

    def retranslate(self) -> None:
        """Say everything again in the language in force."""
        self.prompt.placeholder = say("prompt.placeholder")
        self._show_keys()
        for widget in self.query("*"):
            if widget is not self and hasattr(widget, "retranslate"):
                widget.retranslate()

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

    def show_settings(self) -> None:
        """Bring the status line up to date with the model, the chat and the settings."""
        engine = self.session.engine
        self.status.change(
            model=engine.info.name if engine else self.session.settings.model,
            loading="" if self.session.ready else self.status.status.loading,
            failed=self.load_error is not None,
            context=engine.context_length if engine else 0,
            temperature=self.state.sampling.temperature,
            policy=self.session.settings.policy,
            persona=self.state.persona,
        )

    # -- sending -----------------------------------------------------------------------------------------------------

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

    async def ask(self, wish: Wish) -> None:
        """Send `wish` now, or as soon as the model is free."""
        self.state.queue.insert(0, wish)
        await self._pump()

    async def _pump(self) -> None:
        if self.state.queue and self.generation is None and self.session.ready:
            await self._begin(self.state.queue.pop(0))
        self.refresh_queue()

    async def _begin(self, wish: Wish) -> None:
        tip = self.branch.tip
        parent = wish.parent if wish.branches else tip.id if tip else None
        request = Request(
            prompt=wish.prompt,
            sampling=self.state.sampling,
            conversation=self.branch.conversation,
            parent=parent,
            system=self.state.system,
            continues=wish.continues,
        )
        self._live = await self.transcript.begin(wish.prompt, parent)
        self.strip.show(self._live.stages)
        self.generation = Generation(self.session, request)
        self._ticker.resume()
        self._show_keys()

    def stop(self) -> bool:
        """Stop the reply being written, if there is one."""
        if self.generation is None:
            return False
        self.generation.stop()
        return True

    # -- what the pipeline says --------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        generation = self.generation
        if generation is None or self._live is None:
            return
        before = self._live.stages
        for item in generation.drain():
            match item:
                case Failed():
                    await self._failed(item.error, generation.request)
                case Ended():
                    await self._ended()
                case Token():
                    self._live.stages = self._live.stages.after(item)
                case _:
                    await self._live.handle(item)
                    self._note(item)
        self.transcript.follow()
        if self._live is not None:
            self._show_progress(before, self._live.stages)

    def _show_progress(self, before: Stages, stages: Stages) -> None:
        """Bring strip and status up to date; mere counts only now and then, as they are far from the growing text."""
        now = time.monotonic()
        if replace(before, tokens=0) == replace(stages, tokens=0) and now - self._counted_at < _COUNT_EVERY:
            return
        self._counted_at = now
        self.strip.show(stages)
        self.status.change(used=self._read_tokens + stages.tokens)

    def _note(self, event: Event) -> None:
        if isinstance(event, PromptChecked):
            self.branch.conversation = event.conversation
        elif isinstance(event, Prefilled):
            self._read_tokens = event.prompt_tokens
            self.status.change(used=event.prompt_tokens, context=event.context_length)
        elif isinstance(event, Finished):
            self.branch.add(event.turn)
            self.transcript.place_siblings()

    async def _failed(self, error: Exception, request: Request) -> None:
        live = self._live
        if live is not None and live.turn is None:
            if not self.prompt.text.strip():
                self.prompt.put(request.prompt)
            if live.stages.prompt is None:  # refused before it reached the log
                await self.transcript.show(self.branch)
            else:
                self.open_conversation(self.branch.conversation or "")
        self.show_error(error)

    async def _ended(self) -> None:
        self.generation = None
        self._ticker.pause()
        if self._live is not None:
            stages = self._live.stages
            self.strip.show(stages)
            if stages.tokens:
                self.status.change(used=self._read_tokens + stages.tokens)
        self._live = None
        self.transcript.wake()
        self._show_keys()
        self.sidebar.current = self.branch.conversation
        self.sidebar.refresh_rows()
        await self._pump()

    # -- drafts ------------------------------------------------------------------------------------------------------

    @on(PromptInput.Changed, "#prompt")
    def _typed(self) -> None:
        if self._draft_timer is None:
            self._draft_timer = self.set_timer(_DRAFT_EVERY, self.keep_draft)

    def keep_draft(self) -> None:
        """Keep what is in the message box; a folder that cannot be written is told."""
        self._draft_timer = None
        try:
            self._drafts.keep(self.branch.conversation, "" if self.state.editing else self.prompt.full_text)
            self._drafts.save()
        except UsageError as error:
            self.tell(told(error), "warning")

    def leave_conversation(self) -> None:
        """Keep the draft of the conversation that is left, and empty the box."""
        self.keep_draft()
        self.prompt.load_text("")

    def take_up_draft(self) -> None:
        """Put the conversation's draft into the empty message box."""
        draft = self._drafts.get(self.branch.conversation)
        if draft and not self.prompt.text:
            self.prompt.put(draft)

    def on_unmount(self) -> None:
        self.keep_draft()

    # -- conversations -----------------------------------------------------------------------------------------------

    @work(exclusive=True, group="open")
    async def open_conversation(self, conversation: str, turn: str | None = None) -> None:
        """Show a logged conversation, on the branch through `turn` when one is named."""
        if self.generation is not None and conversation != self.branch.conversation:
            self.tell(say("chat.busy"), "warning")
            return
        branch = await self.attempt(lambda: self._read_branch(conversation, turn))
        if branch is None or not self.transcript.is_attached:  # the latter: read too late, the program is being left
            return
        if branch.conversation != self.branch.conversation:
            self.leave_conversation()
        self.branch = branch
        self.state.continue_from(branch, self.session.settings)
        await self.transcript.show(branch, turn)
        self.strip.show(Stages.of(branch.tip) if branch.tip else Stages())
        self.prompt.remember([t.prompt for t in branch.path])
        self.status.change(used=branch.tip.usage.prompt_tokens + branch.tip.usage.reply_tokens if branch.tip else 0)
        self.show_settings()
        self.sidebar.mark(branch.conversation)
        self.take_up_draft()

    def _read_branch(self, conversation: str, turn: str | None) -> Branch:
        ledger = self.session.ledger
        branch = Branch.through(ledger.turns(conversation), turn)
        for index in range(max(0, len(branch.path) - WINDOW), len(branch.path)):
            branch.path[index] = ledger.turn(branch.path[index].id)  # with its tokens, for the footer
        return branch

    @on(Sidebar.Wanted)
    def _wanted(self, event: Sidebar.Wanted) -> None:
        self._fill_sidebar(event.query, event.before)

    @work(exclusive=True, group="sidebar")
    async def _fill_sidebar(self, query: str, before: str | None) -> None:
        ledger = self.session.ledger
        if query:
            await asyncio.sleep(0.15)  # a search is begun when the typing pauses
            hits = await self.attempt(lambda: ledger.search(query, limit=PAGE), quiet=True)
            self.sidebar.show_hits(hits or [])
        else:
            rows = await self.attempt(lambda: ledger.conversations(PAGE, before))
            self.sidebar.show_conversations(rows or [], append=before is not None)

    @on(Sidebar.Chosen)
    def _chosen(self, event: Sidebar.Chosen) -> None:
        self.open_conversation(event.conversation, event.turn)

    @work(exclusive=True, group="prompts")
    async def _recall_prompts(self) -> None:
        rows = await self.attempt(lambda: self.session.ledger.list_turns(limit=30), quiet=True)
        self.prompt.remember([row.prompt for row in reversed(rows or []) if row.prompt])

    # -- deeds -------------------------------------------------------------------------------------------------------

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

    @on(Strip.Opened)
    async def _strip_opened(self) -> None:
        await self.action_command("turn_safety")

    # -- telling -----------------------------------------------------------------------------------------------------

    def refresh_queue(self) -> None:
        """Show on the message box what waits to be sent, and whether an earlier prompt is being edited."""
        queued = len(self.state.queue)
        self.prompt.border_subtitle = say("prompt.queued", count=queued) if queued else ""
        self.prompt.border_title = say("prompt.editing") if self.state.editing else ""

    def show_list(self, visible: bool) -> None:
        """Show or hide the conversations, whatever the width says."""
        self.sidebar.display = visible
        if not visible:
            self.prompt.focus()

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard, as it is shown."""
        self.app.copy_to_clipboard(sanitize(text))
        self.tell(say("copy.done", count=len(text)))

    def _show_keys(self) -> None:
        keys = commands.keys_in_force(getattr(self.app, "own_keys", {}))
        turn = isinstance(self.focused, TurnView)
        shown = [c for c in commands.COMMANDS if (c.scope == "turn" if turn else c.hint) and c.id in keys]
        if turn:
            shown = [c for c in shown if deeds.fits(c.id, self.focused)]
        else:
            shown = [c for c in shown if c.id != "stop" or self.generation is not None]
        hints = [(commands.key_name(keys[c.id]), c.name) for c in shown]
        if not turn:
            hints.append((commands.key_name(keys["help"]), commands.command("help").name))
            hints.append(("Ctrl+P", say("keys.palette")))
        self.query_one(KeyBar).show(hints)

    def on_descendant_focus(self) -> None:
        self._show_keys()
        view = self.transcript.current()
        if view is not None and self.generation is None:
            self.strip.show(view.stages)

    # -- settings ----------------------------------------------------------------------------------------------------

    def change_setting(self, name: str, value: object) -> None:
        """Change one setting of the running program. Raises UsageError when the value cannot be."""
        self.take_settings(replace(self.session.settings, **{name: convert(name, value, f"/{name}")}))

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
            self.session.guard = None
        if any(getattr(settings, name) != getattr(before, name) for name in _OF_THE_ENGINE):
            self.session.engine = None
        if not self.session.ready and self.generation is None:
            self.load_model()
        self.show_settings()
