"""Every test of the terminal application runs in one time zone, one terminal and a home of its own."""

from __future__ import annotations

import time

import pytest
import textual._compositor
import textual.css.stylesheet
from textual.css.parse import parse

from assistant.tui import clipboard
from assistant.tui.text import say

_PARSED = {}


def _parse_once(scope, css, read_from, variables=None, variable_tokens=None, is_default_rules=False, tie_breaker=0):
    """Every test starts an application, and every application reads the same style sheets."""
    values = tuple(sorted((name, tuple(token.value for token in tokens)) for name, tokens in (variable_tokens or {}).items()))
    key = (scope, css, read_from, is_default_rules, tie_breaker, values)
    if key not in _PARSED:
        _PARSED[key] = list(parse(scope, css, read_from, variables, variable_tokens, is_default_rules, tie_breaker))
    return _PARSED[key]


@pytest.fixture(autouse=True, scope="session")
def _style_sheets_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textual.css.stylesheet, "parse", _parse_once)
        patch.setattr(textual._compositor.Compositor, "render_update", _no_frame)
        yield


def _no_frame(compositor, full=False, screen_stack=None, simplify=False):
    """The headless terminal shows nobody its frames: the screen is drawn when a test reads it."""
    compositor._dirty_regions.clear()


@pytest.fixture(autouse=True)
def _still(monkeypatch, tmp_path):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setenv("PELLUCID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TEXTUAL_DISABLE_KITTY_KEY", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(clipboard, "ways", lambda environ: [])  # nobody's clipboard is written
    say.use("en")
    say.use_keys({})
    yield
    time.tzset()
