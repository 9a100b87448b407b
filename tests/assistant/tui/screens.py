"""Driving and reading the screen: wait for a condition, take the text that is shown, compare it with a golden."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

GOLDENS = Path(__file__).parent / "goldens"


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
    if os.environ.get("PELLUCID_GOLDENS") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, "utf-8")
    assert path.exists(), f"there is no golden {name}; the screen:\n{shown}"
    assert shown == path.read_text("utf-8"), f"the screen is not the golden {name}:\n{shown}"
