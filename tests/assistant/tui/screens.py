"""Driving and reading the screen: wait for a condition, take the text that is shown, compare it with a golden."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from assistant.tui.app import PellucidApp

GOLDENS = Path(__file__).parent / "goldens"
WRITE = os.environ.get("PELLUCID_GOLDENS") == "write"  # read here: the tests run without the settings of the person


def text_of(app):
    """The screen as lines of text, trailing blanks cut."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def wait_until(pilot, condition, what="", limit=10.0):
    """Let the application run until `condition()` holds."""
    until = time.monotonic() + limit
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"never: {what or condition}\n{text_of(pilot.app)}")
        await asyncio.sleep(0.01)
    await settled(pilot)


async def settled(pilot):
    """Let everything that is on its way arrive."""
    for _ in range(3):
        await pilot.app.animator.wait_until_complete()
        await pilot._wait_for_screen()
        await asyncio.sleep(0.02)


async def shows(pilot, text):
    """Wait until `text` is on the screen."""
    await wait_until(pilot, lambda: text in text_of(pilot.app), f"{text!r} on the screen")


def golden(app, name):
    """The screen must be the golden file `name`. PELLUCID_GOLDENS=write makes it so (look at the diff!)."""
    path = GOLDENS / f"{name}.txt"
    shown = text_of(app) + "\n"
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, "utf-8")
    assert path.exists(), f"there is no golden {name}; the screen:\n{shown}"
    assert shown == path.read_text("utf-8"), f"the screen is not the golden {name}:\n{shown}"


@contextlib.asynccontextmanager
async def running(session, size=(100, 30), conversation=None, keys=None):
    """The application on a terminal of `size`, and its pilot; the chat is drawn and its list is filled."""
    app = PellucidApp(session, conversation, keys)
    async with app.run_test(size=size, notifications=True) as pilot:
        await wait_until(pilot, lambda: hasattr(app, "chat") and app.chat.is_mounted and hasattr(app.chat, "sidebar"))
        yield pilot


async def say_to(pilot, text):
    """Type `text` (at once) into the message box and send it."""
    prompt = pilot.app.chat.prompt
    prompt.focus()
    prompt.load_text(text)
    await pilot.press("enter")


async def idle(pilot):
    """Wait until no reply is being written."""
    await wait_until(pilot, lambda: pilot.app.chat.generation is None and not pilot.app.chat.state.queue, "idle")
