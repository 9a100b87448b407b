"""What the parts of the chat screen share: its widgets, its state, and how it tells the person about both."""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer

from assistant import paths
from assistant.tui import clipboard, commands, deeds
from assistant.tui.backend import SessionLike
from assistant.tui.branch import Branch
from assistant.tui.chat_state import ChatState
from assistant.tui.drafts import Drafts
from assistant.tui.generation import Generation
from assistant.tui.personas import Persona
from assistant.tui.sanitize import sanitize
from assistant.tui.screens.telling import TellingScreen
from assistant.tui.text import say
from assistant.tui.widgets.key_bar import KeyBar
from assistant.tui.widgets.prompt import PromptInput
from assistant.tui.widgets.sidebar import Sidebar
from assistant.tui.widgets.status import StatusLine
from assistant.tui.widgets.strip import Strip
from assistant.tui.widgets.transcript import Transcript
from assistant.tui.widgets.turn_view import TurnView
from assistant.tui.widgets.welcome import Welcome


class ChatBase(TellingScreen[None]):
    """Widgets and state."""

    transcript: Transcript
    strip: Strip
    prompt: PromptInput
    status: StatusLine
    sidebar: Sidebar

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings("chat")]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (90, "-wide")]  # noqa: RUF012 (declared by Screen)
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (9, "-short"), (16, "-tall")]  # noqa: RUF012

    def __init__(self, session: SessionLike, conversation: str | None = None, recovered: int = 0) -> None:
        super().__init__()
        self.session = session
        self.state = ChatState.fresh(session.settings)
        self.own_policy = session.settings.policy
        """What the person chose; a persona may bring another for its conversations."""
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
        self._copying = asyncio.Lock()

    def compose(self) -> ComposeResult:
        with Horizontal(id="columns"):
            yield Sidebar(id="sidebar")
            with Vertical(id="main"):
                yield Transcript(Welcome(), id="transcript")
                yield Strip(id="strip")
                yield PromptInput(id="prompt")
                yield StatusLine(id="status")
        yield KeyBar(id="keys")

    def retranslate(self) -> None:
        """Say everything again in the language in force."""
        self.prompt.placeholder = say("prompt.placeholder")
        self.refresh_queue()
        self._show_keys()
        for widget in self.query("*"):
            if widget is not self and hasattr(widget, "retranslate"):
                widget.retranslate()

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

    def refresh_queue(self) -> None:
        """Show on the message box what waits to be sent, and whether an earlier prompt is being edited."""
        queued = len(self.state.queue)
        self.prompt.border_subtitle = say("prompt.queued", count=queued) if queued else ""
        self.prompt.border_title = say("prompt.editing") if self.state.editing else ""

    def load_model(self) -> None:
        """Load behind the screen what is missing of model and guard."""
        raise NotImplementedError

    def take_policy(self, persona: Persona | None) -> None:
        """Check by the policy of `persona`, or again by the person's own."""
        raise NotImplementedError

    def show_list(self, visible: bool) -> None:
        """Show or hide the conversations, whatever the width says."""
        self.sidebar.display = visible
        if not visible:
            self.prompt.focus()

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard, as it is shown: by the terminal at once, by a command of this machine behind the screen."""
        shown = sanitize(text)
        self.app.copy_to_clipboard(shown)
        self._copy_by_command(shown)

    @work(group="copy")
    async def _copy_by_command(self, text: str) -> None:
        async with self._copying:  # the last text that was copied is the last to arrive
            copied = await asyncio.to_thread(lambda: clipboard.put(text, clipboard.ways(os.environ)))
        words = say({"": "copy.terminal", "tmux": "copy.way_tmux"}.get(copied.way, "copy.way"), way=copied.way)
        if copied.failed:
            words += " · " + say("copy.failed", ways=", ".join(copied.failed))
        self.tell(say("copy.done", count=len(text), words=words))

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
