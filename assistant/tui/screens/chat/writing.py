"""The part of the chat screen that has replies written: one prompt at a time, events as they come, a queue for the rest."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

from textual.timer import Timer

from assistant.events import Event, Finished, Prefilled, PromptChecked, Token
from assistant.pipeline import Request
from assistant.tui.chat_state import Wish
from assistant.tui.generation import Ended, Failed, Generation
from assistant.tui.screens.chat.conversing import Conversing
from assistant.tui.stages import Stages
from assistant.tui.widgets.transcript import WINDOW

_COUNT_EVERY = 1.0  # seconds


class Writing(Conversing):
    """Sends, and shows what the pipeline says."""

    _ticker: Timer
    _due = False

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
        gc.disable()  # a full collection takes as long as three frames: while a reply grows only the young are collected
        self._ticker.resume()
        self._show_keys()

    def stop(self) -> bool:
        """Stop the reply being written, if there is one."""
        if self.generation is None:
            return False
        self.generation.stop()
        return True

    def tick(self) -> None:
        """Have the news shown in the screen's turn: a timer runs beside the handlers of keys, and would get between them."""
        if not self._due:
            self._due = self.call_later(self._drain)

    async def _drain(self) -> None:
        self._due = False
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
        self.call_after_refresh(gc.collect, 1)  # between two frames: it takes as long as one
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
            self.branch.forget_tokens(2 * WINDOW)
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
        gc.enable()
        self._ticker.pause()
        if self._live is not None:
            stages = self._live.stages
            self.strip.show(stages)
            if stages.tokens:
                self.status.change(used=self._read_tokens + stages.tokens)
        self._live = None
        self.transcript.settle()
        self._show_keys()
        self.sidebar.current = self.branch.conversation
        self.sidebar.refresh_rows()
        if not self.session.ready and self.load_error is None:  # settings were changed while it was written
            self.load_model()
        await self._pump()
