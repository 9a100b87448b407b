"""Prompts go before replies; never more at once than there are places; a place is given back whatever happens."""

from __future__ import annotations

import threading

import pytest

from safety.turnstile import Turnstile


def test_prompts_go_before_replies_that_came_earlier() -> None:
    turns, order = Turnstile(1), []  # type: Turnstile, list[str]

    def go(name: str, first: bool) -> None:
        with turns.place(first=first):
            order.append(name)

    threads = [threading.Thread(target=go, args=(name, name == "prompt")) for name in ("reply 1", "reply 2", "prompt")]
    with turns.place(first=False):
        for thread in threads:
            thread.start()
        while len(turns._changed._waiters) < 3:  # type: ignore[attr-defined]
            pass
    for thread in threads:
        thread.join()
    assert order[0] == "prompt" and sorted(order[1:]) == ["reply 1", "reply 2"]


@pytest.mark.parametrize(("first", "at_once"), [(True, 2), (False, 1)])
def test_no_more_at_once_than_there_are_places_and_replies_leave_one(first: bool, at_once: int) -> None:
    turns, inside, most, lock = Turnstile(2), [0], [0], threading.Lock()

    def go() -> None:
        for _ in range(50):
            with turns.place(first=first):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= at_once and turns._free == 2


def test_a_failure_gives_its_place_back() -> None:
    turns = Turnstile(1)
    with pytest.raises(ZeroDivisionError), turns.place(first=True):
        raise ZeroDivisionError
    with turns.place(first=False):
        assert turns._free == 0
    assert turns._free == 1 and turns._first_waiting == 0
