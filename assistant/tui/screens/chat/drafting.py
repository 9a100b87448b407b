"""The part of the chat screen that keeps what was written and not sent."""

from __future__ import annotations

from textual import on

from assistant.errors import UsageError
from assistant.tui.screens.chat.base import ChatBase
from assistant.tui.told import told
from assistant.tui.widgets.prompt import PromptInput

_DRAFT_EVERY = 1.0  # seconds


class Drafting(ChatBase):
    """Drafts, one a conversation."""

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
