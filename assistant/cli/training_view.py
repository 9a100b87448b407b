"""A run on the terminal: one line that changes while it works; tests, samples and checkpoints above it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from assistant.lm.train import Evaluated, Event, Sampled, Saved, Stepped
from assistant.tui.sanitize import sanitize

if TYPE_CHECKING:
    from assistant.training.runs import Work

EVERY = 50
"""Steps between lines where there is no terminal."""


class View:
    """Shows events on stderr. On a terminal the progress line is redrawn at most ten times a second."""

    def __init__(self, run: Work, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._run = run
        self._live = sys.stderr.isatty()
        self._drawn = 0.0
        self._average: float | None = None
        self._speed: float | None = None
        self._width = 0

    def show(self, event: Event) -> None:
        """Show one event."""
        if self.quiet:
            return
        if isinstance(event, Stepped):
            self._stepped(event)
        elif isinstance(event, Evaluated):
            self._line(f"step {event.step}: validation loss {event.loss:.4f}, perplexity {event.perplexity:.2f}")
        elif isinstance(event, Sampled):
            self._line(f"step {event.step}: {sanitize(self._run.text(event.prompt, event.ids))}")
        elif isinstance(event, Saved) and not self._live and event.step:
            self._line(f"step {event.step}: checkpoint")

    def _stepped(self, event: Stepped) -> None:
        speed = event.tokens / max(event.seconds, 1e-9)
        self._average = event.loss if self._average is None else 0.95 * self._average + 0.05 * event.loss
        self._speed = speed if self._speed is None else 0.9 * self._speed + 0.1 * speed
        steps = self._run.plan.steps
        if self._live:
            if time.monotonic() - self._drawn < 0.1 and event.step < steps:
                return
        elif event.step % EVERY and event.step not in (1, steps):
            return
        self._drawn = time.monotonic()
        left = (steps - event.step) * event.tokens / self._speed
        text = (
            f"step {event.step}/{steps}  loss {self._average:.3f}  rate {event.rate:.1e}  |g| {event.gradient:.2f}  "
            f"{self._speed:,.0f} tok/s  {left / 60:.0f} min {left % 60:02.0f} s left"
        )
        if not self._live:
            click.echo(text, err=True)
            return
        room = shutil.get_terminal_size().columns - len(text) - 4
        bar = f" {'█' * int(event.step / steps * room):░<{room}}" if room > 4 else ""
        sys.stderr.write("\r" + text + bar + " " * max(self._width - len(text) - len(bar), 0))
        sys.stderr.flush()
        self._width = len(text) + len(bar)

    def _line(self, text: str) -> None:
        self.done()
        click.echo(text.replace("\n", "⏎"), err=True)

    def done(self) -> None:
        """Clear the changing line."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
