"""The models one can switch to, as rows of a choice. Reads the catalogue only when asked: it may look at the disk."""

from __future__ import annotations

import importlib

from assistant.errors import ModelError
from assistant.tui.text import say


def choices() -> list[tuple[str, str, str]]:
    """(name, name and size, description) of every model of the catalogue.

    Raises ModelError when there is no catalogue.
    """
    try:
        catalogue = importlib.import_module("assistant.lm.catalog")
    except ImportError as error:
        raise ModelError(say("error.no_catalogue")) from error
    rows = []
    for entry in catalogue.CATALOG:
        size = say("model.size", megabytes=round(entry.size / 1e6))
        rows.append((entry.name, f"{entry.name} · {', '.join(entry.languages)} · {size}", entry.description))
    return rows
