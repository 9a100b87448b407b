"""Shared by the tests of the ledger and of the audit: an isolated home, a fresh ledger, turns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.store.ledger import Ledger
from assistant.turn import Turn

from .factory import make_turn as _make_turn


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_HOME", str(tmp_path / "home"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as ledger:
        yield ledger


@pytest.fixture
def make_turn() -> Any:
    return _make_turn


def log_turn(ledger: Ledger, **changes: Any) -> Turn:
    """Open and close one turn."""
    turn = _make_turn(**changes)
    ledger.open_turn(turn)
    ledger.close_turn(turn)
    return turn
