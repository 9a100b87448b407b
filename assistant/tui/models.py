"""The models one can switch to, as rows of a choice, and fetching one. Reads the catalogue only when asked: it looks at the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable

from assistant.tui.text import say

Progress = Callable[[str, float | None], object]


class Stopped(Exception):
    """The person stopped the fetching."""


def choices() -> list[tuple[str, str, str]]:
    """(name, name, languages, size and whether it is here, description) of every model of the catalogue."""
    from assistant.lm import catalog

    rows = []
    for entry in catalog.CATALOG:
        size = say("model.size", megabytes=round(entry.size / 1e6))
        here = say("model.here") if entry.path.exists() else say("model.to_fetch")
        rows.append((entry.name, f"{entry.name} · {', '.join(entry.languages)} · {size} · {here}", entry.description))
    return rows


def must_be_fetched(name: str) -> str:
    """What fetching the model `name` means, in a sentence to agree to; empty when it is here. Raises ModelError for an unknown name."""
    from assistant.lm import catalog

    if catalog.looks_like_path(name):
        return ""
    entry = catalog.find(name)
    if entry.path.exists():
        return ""
    question = say("pull.ask", name=entry.name, megabytes=round(entry.size / 1e6), licence=entry.licence)
    return f"{question}\n\n{say('pull.terms', terms=entry.terms)}" if entry.terms else question


def fetch(name: str, progress: Progress, stop: threading.Event) -> None:
    """Fetch the model `name`, after the person agreed to `must_be_fetched`.

    Raises ModelError, and Stopped at the next report of progress after `stop` is set.
    """
    from assistant.lm import catalog, pull

    def report(what: str, fraction: float | None) -> None:
        if stop.is_set():
            raise Stopped
        progress(what, fraction)

    pull.pull(catalog.find(name), report, accept_terms=True)
