"""The start: nothing heavy before the first paint, and a clear word where no screen can be drawn."""

import os
import subprocess
import sys

import pytest

from assistant.errors import UsageError
from assistant.tui import terminal


def test_the_application_is_imported_without_torch():
    script = (
        "import sys; import assistant.tui.app, assistant.tui.screens.inspector, assistant.tui.screens.audit; "
        "print([m for m in ('torch', 'captum', 'transformers', 'tokenizers', 'numpy', 'gguf', 'sqlite_utils') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_sanitiser_is_imported_without_textual():
    script = "import sys; import assistant.tui.sanitize, assistant.tui.config_file; print('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM_PROGRAM": "vscode", "LANG": "en_US.UTF-8"}, "1"),
        ({"TERM_PROGRAM": "iTerm.app"}, "1"),
        ({"LANG": "zh_CN.UTF-8"}, "1"),
        ({"LC_ALL": "zh_TW.UTF-8", "LANG": "C"}, "1"),
        ({"LANG": "en_US.UTF-8"}, None),
        ({"LANG": "zh_CN.UTF-8", "TEXTUAL_DISABLE_KITTY_KEY": "0"}, "0"),
    ],
)
def test_chinese_input_is_guarded_unless_told_otherwise(environment, expected):
    terminal.guard_input_method(environment)
    assert environment.get("TEXTUAL_DISABLE_KITTY_KEY") == expected


def test_the_guard_is_set_before_textual_is_imported():
    script = "import assistant.tui.app, textual.constants; print(textual.constants.DISABLE_KITTY_KEY)"
    environment = {**os.environ, "LANG": "zh_CN.UTF-8", "LC_ALL": "zh_CN.UTF-8"}
    environment.pop("TEXTUAL_DISABLE_KITTY_KEY", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True"


def test_without_a_terminal_it_says_what_to_use(monkeypatch):
    with pytest.raises(UsageError, match="pellucid ask"):
        terminal.require_screen()

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(UsageError, match="chat --plain"):
        terminal.require_screen()
    monkeypatch.setenv("TERM", "xterm")
    terminal.require_screen()
