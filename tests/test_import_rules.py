"""The one-way flow: `assistant` imports `safety` and `explain`; they import neither it nor each other. Torch stays out of
light commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"safety": {"assistant", "explain"}, "explain": {"assistant", "safety"}}


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_the_lower_packages_know_nothing_of_the_others(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imports(file) & FORBIDDEN[package], file


def test_the_model_knows_no_safety_store_or_screen():
    for file in (ROOT / "assistant" / "lm").glob("*.py"):
        text = file.read_text("utf-8")
        for other in ("safety", "explain", "assistant.store", "assistant.tui", "assistant.audit", "assistant.cli"):
            assert f"from {other}" not in text and f"import {other}" not in text, (file, other)


LIGHT = [
    ["--help"], ["--version"], ["chat", "--help"], ["ask", "--help"], ["explain", "--help"], ["moderate", "--help"],
    ["models", "list"], ["models", "path"], ["config", "show"], ["config", "paths"], ["audit", "--help"], ["audit", "list"],
    ["safety", "--help"], ["bench", "--help"], ["train", "--help"], ["finetune", "--help"], ["evaluate", "--help"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_light_commands_never_import_torch(arguments, home):
    code = (
        "import sys; from assistant.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = [m for m in ('torch', 'captum', 'tokenizers') if m in sys.modules]\n"
        "    print('HEAVY', heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert "HEAVY []" in done.stderr, done.stderr
    assert done.returncode == 0 or "there is no log" in done.stderr, done.stderr


def test_the_terminal_application_is_imported_without_torch():
    code = "import sys, assistant.tui.app, assistant.pipeline, assistant.session; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
