"""What is done with the log stands in the log: who took something out of it, and where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assistant.errors import LedgerError
from assistant.store.append import Appender
from assistant.store.ledger import Filter, Ledger


def note_export(path: Path, form: str, which: Filter | None = None, *, say: Callable[[str], None], **fields: Any) -> None:
    """Log that texts are about to leave the log as `form`, before they do. Nothing is made where there is no log.

    A log that can only be read is exported all the same: `say` is told that it could not be noted.
    """
    with Ledger.open(path, read_only=True):
        pass
    chosen = {name: value for name, value in asdict(which).items() if value is not None} if which is not None else {}
    try:
        with Ledger.open(path) as ledger, ledger.transaction() as appender:
            _append(appender, "export", {"format": form, **({"filter": chosen} if chosen else {}), **fields})
    except LedgerError as error:
        say(f"the export is not noted in the log: {error}")


def note_import(path: Path, size: int, root: str) -> None:
    """Log that the first `size` records came from an export with this root."""
    with Ledger.open(path) as ledger, ledger.transaction() as appender:
        _append(appender, "import", {"size": size, "root": root})


def _append(appender: Appender, kind: str, fields: dict[str, Any]) -> None:
    """Log an event without a checkpoint outside: this may be a copy, and the log it was copied from goes on under the same name."""
    appended = appender.appended
    appender.append(kind, fields)
    appender.appended = appended
