"""Driving and reading the screen: wait for a condition, take the text that is shown, compare it with a golden."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from textual._context import visible_screen_stack
from textual.events import Key
from textual.keys import _character_to_key
from textual.pilot import Pilot

from assistant.tui.app import PellucidApp

GOLDENS = Path(__file__).parent / "goldens"
WRITE = os.environ.get("PELLUCID_GOLDENS") == "write"  # read here: the tests run without the settings of the person


def text_of(app):
    """The screen as lines of text, trailing blanks cut."""
    visible_screen_stack.set(app._background_screens)
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def wait_until(pilot, condition, what="", limit=10.0):
    """Let the application run until `condition()` holds."""
    until = time.monotonic() + limit
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"never: {what or condition}\n{text_of(pilot.app)}")
        await asyncio.sleep(0.005)
    await settled(pilot)


async def settled(pilot, limit=10.0):
    """Let everything that is on its way arrive: messages, layouts, workers and what they bring about."""
    until = time.monotonic() + limit
    app = pilot.app
    while True:
        while what := _busy(app):
            if what == "a frame" and min(app.size) <= 10 and time.monotonic() > until - limit + 0.5:
                return  # on a screen of a few cells a scroll bar may take its own room away for ever
            if time.monotonic() > until:
                raise AssertionError(f"never quiet: {what}\n{text_of(app)}")
            await asyncio.sleep(0.002)
        if not await pilot._wait_for_screen() or not _busy(app):  # a handler that is still running holds this back
            return


def _busy(app):
    """What but a thread of its own is still going to change the screen by itself; empty when nothing is."""
    if app._exception is not None:
        return ""
    if any(pump.message_queue_size or pump._next_callbacks for pump in app._registry) or app.message_queue_size:
        return "messages"
    if app._resize_event is not None or app._resize_timer is not None:
        return "a new size"
    if any(screen._callbacks or screen._update_timer._active.is_set() for screen in app.screen_stack):  # those behind a dialog too
        return "a frame"
    if app.screen._layout_required:
        return "a layout"
    return next((f"the worker {worker.name}" for worker in app.workers if worker.is_running), "")


class QuickPilot(Pilot):
    """Textual's pilot, which waits for what is really under way rather than for the processor to be idle."""

    async def press(self, *keys):
        for key in keys:
            name = _character_to_key(key) if len(key) == 1 and not key.isalnum() else key
            event = Key(name, key if len(key) == 1 else None)
            event.set_sender(self.app)
            self.app._driver.send_message(event)
            await settled(self)

    async def pause(self, delay=None):
        if delay is not None:
            await asyncio.sleep(delay)
        await settled(self)


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
    app.animation_level = "none"
    async with app.run_test(size=size, notifications=True):
        pilot = QuickPilot(app)
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
