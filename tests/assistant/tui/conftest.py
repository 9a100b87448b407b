"""Every test of the terminal application runs in one time zone, one terminal and a home of its own."""

from __future__ import annotations

import time

import pytest

from assistant.tui.text import say


@pytest.fixture(autouse=True)
def _still(monkeypatch, tmp_path):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setenv("PELLUCID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TEXTUAL_DISABLE_KITTY_KEY", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    say.use("en")
    yield
    time.tzset()
