"""The part of the chat screen that opens and lists logged conversations."""

from __future__ import annotations

import asyncio

from textual import on, work

from assistant.tui import personas
from assistant.tui.branch import Branch
from assistant.tui.personas import Persona
from assistant.tui.screens.chat.drafting import Drafting
from assistant.tui.stages import Stages
from assistant.tui.text import say
from assistant.tui.widgets.sidebar import PAGE, Sidebar
from assistant.tui.widgets.transcript import WINDOW


class Conversing(Drafting):
    """What is in the log, and which branch of it is shown."""

    @work(exclusive=True, group="open")
    async def open_conversation(self, conversation: str, turn: str | None = None) -> None:
        """Show a logged conversation, on the branch through `turn` when one is named."""
        if self.generation is not None and conversation != self.branch.conversation:
            self.tell(say("chat.busy"), "warning")
            return
        found = await self.attempt(lambda: self._read_branch(conversation, turn))
        if found is None or not self.transcript.is_attached:  # the latter: read too late, the program is being left
            return
        branch, persona = found
        same = branch.conversation == self.branch.conversation
        if not same:
            self.leave_conversation()
        self.branch = branch
        self.state.continue_from(branch, self.session.settings, same=same)
        if not same:
            self.state.recall(persona, say.language)
            self.take_policy(persona)
        await self.transcript.show(branch, turn)
        self.strip.show(Stages.of(branch.tip) if branch.tip else Stages())
        self.prompt.remember([t.prompt for t in branch.path])
        self.status.change(used=branch.tip.usage.prompt_tokens + branch.tip.usage.reply_tokens if branch.tip else 0)
        self.show_settings()
        self.sidebar.mark(branch.conversation)
        self.take_up_draft()

    def _read_branch(self, conversation: str, turn: str | None) -> tuple[Branch, Persona | None]:
        """The branch, and the persona that answered last in it."""
        ledger = self.session.ledger
        branch = Branch.through(ledger.turns(conversation), turn)
        for index in range(max(0, len(branch.path) - WINDOW), len(branch.path)):
            branch.path[index] = ledger.turn(branch.path[index].id)  # with its tokens, for the footer
        return branch, personas.of_system(branch.tip.system) if branch.tip else None

    @on(Sidebar.Wanted)
    def _wanted(self, event: Sidebar.Wanted) -> None:
        self._fill_sidebar(event.query, event.before, event.below)

    @work(exclusive=True, group="sidebar")
    async def _fill_sidebar(self, query: str, before: str | None, below: int | None) -> None:
        ledger = self.session.ledger
        if query:
            if below is None:
                await asyncio.sleep(0.15)  # a search is begun when the typing pauses
            hits = await self.attempt(lambda: ledger.search(query, limit=PAGE, before=below), quiet=True)
            self.sidebar.show_hits(hits or [], append=below is not None)
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
