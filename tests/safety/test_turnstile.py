"""Prompts go before replies, each in the order they came; what waits is done together; never more at once than there are places; a place is
given back whatever happens, and a failure is its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from safety.turnstile import Turnstile


class Work:
    """Work that can be held up: what was done together, and how many at once at most."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.most = self.inside = 0
        self.go_on = threading.Event()
        self.lock = threading.Lock()

    def __call__(self, given: Sequence[str]) -> list[str]:
        with self.lock:
            self.groups.append(list(given))
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            if "held" in given:
                assert self.go_on.wait(10)
            if "interrupted" in given:
                raise KeyboardInterrupt
            if "bad" in given:
                raise ValueError("bad")
            return [text.upper() for text in given]
        finally:
            with self.lock:
                self.inside -= 1


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def run(turns: Turnstile[str, str], work: Work, names: Sequence[str], weight: int = 1) -> dict[str, object]:
    """Each name (`prompt …` comes first) in a thread of its own, in this order, all behind one that holds the only place."""
    results: dict[str, object] = {}

    def ask(name: str) -> None:
        try:
            results[name] = turns.do(name, weight, first=name.startswith("prompt"))
        except BaseException as error:
            results[name] = error

    threads = []
    for number, name in enumerate(["held", *names]):
        threads.append(threading.Thread(target=ask, args=(name,)))
        threads[-1].start()
        until(lambda number=number: len(turns._first) + len(turns._others) == number and bool(work.groups))  # type: ignore[misc]
    work.go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert turns._free == 1 and not turns._first and not turns._others
    return results


def test_prompts_go_before_replies_that_came_earlier_and_each_in_order_and_together() -> None:
    work = Work()
    results = run(Turnstile(work, 2, 1), work, ["reply 1", "reply 2", "reply 3", "prompt 1", "prompt 2"])
    assert work.groups == [["held"], ["prompt 1", "prompt 2"], ["reply 1", "reply 2"], ["reply 3"]]
    assert results["reply 3"] == "REPLY 3" and results["prompt 2"] == "PROMPT 2"


def test_what_is_too_heavy_is_done_alone() -> None:
    work = Work()
    run(Turnstile(work, 5, 1), work, ["reply 1", "reply 2"], weight=9)
    assert work.groups == [["held"], ["reply 1"], ["reply 2"]]


def test_a_failure_is_its_own() -> None:
    work = Work()
    results = run(Turnstile(work, 9, 1), work, ["reply 1", "bad", "reply 2"])
    assert work.groups[1] == ["reply 1", "bad", "reply 2"] and ["bad"] in work.groups
    assert results["reply 1"] == "REPLY 1" and results["reply 2"] == "REPLY 2" and isinstance(results["bad"], ValueError)


def test_an_interrupt_leaves_the_others_to_themselves() -> None:
    work = Work()
    results = run(Turnstile(work, 9, 1), work, ["interrupted", "reply 1", "reply 2"])
    assert isinstance(results["interrupted"], KeyboardInterrupt) and results["reply 1"] == "REPLY 1" and results["reply 2"] == "REPLY 2"


@pytest.mark.parametrize(("first", "at_once"), [(True, 2), (False, 1)])
def test_no_more_at_once_than_there_are_places_and_replies_leave_one(first: bool, at_once: int) -> None:
    work = Work()
    turns = Turnstile(work, 1, 2)
    threads = [threading.Thread(target=lambda: [turns.do("x", 1, first=first) for _ in range(50)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= work.most <= at_once and turns._free == 2 and len(work.groups) == 300


def test_a_failure_gives_its_place_back() -> None:
    turns = Turnstile(Work(), 1, 1)
    with pytest.raises(ValueError, match="bad"):
        turns.do("bad", 1, first=True)
    assert turns.do("x", 1, first=False) == "X" and turns._free == 1
