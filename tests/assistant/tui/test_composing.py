"""Drawing less must look the same: every part of a screen, drawn by the sparing compositor, beside Textual's own."""

from __future__ import annotations

import random

from textual._compositor import ChopsUpdate, Compositor
from textual.geometry import Region

from tests.assistant.tui.fakes import FakeSession, MemoryLedger, Script, make_turn
from tests.assistant.tui.screens import idle, running, say_to, shows


def _cells_of(compositor, crop):
    """What is written to the terminal for `crop`: each written cell's place, character and style, by its own key."""
    rows = range(crop.y, crop.bottom)
    chops = compositor._render_chops(crop, rows.__contains__)
    update = ChopsUpdate(chops, [(y, crop.x, crop.right) for y in rows], [cuts[1:] for cuts in compositor.cuts])
    out = {}
    for y, x1, x2 in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], chops[y].items(), strict=True):
            if strip is None or x >= x2 or end <= x1:
                continue
            for segment in strip:
                for character in segment.text:
                    out.setdefault((y, x), []).append((character, str(segment.style)))
                x += segment.cell_length // max(1, len(segment.text))
    return out


async def test_a_part_of_the_screen_looks_the_same_as_when_all_of_it_is_drawn():
    turns = [make_turn(1, "天空 and a list", "- 一\n- two\n\n> quote\n\n```\ncode\n```\n\nMuch **more** text. " * 3, None, "C1")]
    session = FakeSession(ledger=MemoryLedger(turns), scripts=[Script("Short waves scatter more. " * 12)])
    random_ = random.Random(7)
    async with running(session, (100, 30), conversation="C1") as pilot:
        await say_to(pilot, "Why is the sky blue?")
        await shows(pilot, "Short waves")
        await idle(pilot)
        sparing = pilot.app.screen._compositor
        theirs = Compositor()
        theirs.__dict__.update(sparing.__dict__)
        assert type(sparing) is not Compositor
        places = [Region(0, 0, 100, 30)]
        for _ in range(60):
            x, y = random_.randrange(100), random_.randrange(30)
            places.append(Region(x, y, random_.randint(1, 100 - x), random_.randint(1, 30 - y)))
        for place in places:
            assert _cells_of(sparing, place) == _cells_of(theirs, place), place


async def test_boxes_drawn_by_one_line_look_as_if_each_line_were_drawn():
    from assistant.tui.widgets.settled import Uniform

    session = FakeSession(ledger=MemoryLedger([make_turn(1, "Why?", "One.\n\n- two\n- three\n\nFour.", None, "C1")]))
    async with running(session, (80, 24), conversation="C1") as pilot:
        boxes = [widget for widget in pilot.app.screen.query("*") if isinstance(widget, Uniform)]
        assert len(boxes) == 3
        boxes[0].focus()  # its border is drawn then
        await pilot.pause()
        for box in boxes:
            whole = Region(0, 0, *box.outer_size)
            assert [s.text for s in box.render_lines(whole)] == [s.text for s in super(Uniform, box).render_lines(whole)]
            assert list(box.render_lines(whole)) == list(super(Uniform, box).render_lines(whole))
