"""What the other layers say is said in Chinese where the interface is Chinese, and nothing is forgotten."""

import ast
import re
from pathlib import Path

import pytest

from assistant.errors import LedgerError
from assistant.tui.text import say
from assistant.tui.told import messages, told

ROOT = Path(__file__).parents[3] / "assistant"
ERRORS = {"PellucidError", "UsageError", "ModelError", "SafetyUnavailable", "LedgerError", "ExplanationError"}
NOT_SHOWN = ("cli", "audit", "benchmarks")  # the command line speaks English; the auditor's work starts there


def sentences():
    """Every sentence that an error is made of where the terminal application may show it, with {} for its values."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).parts[0] in NOT_SHOWN or "train" in path.name or "finetune" in path.name:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                match node.args[0]:
                    case ast.Constant(value=str() as text):
                        yield text
                    case ast.JoinedStr(values=values):
                        yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in values)


@pytest.mark.parametrize("sentence", sorted(set(sentences())))
def test_every_error_has_a_chinese_sentence(sentence):
    say.use("zh")
    values = [f"wert{i}" for i in range(sentence.count("{}"))]
    shown = told(LedgerError(sentence.format(*values)))
    assert re.search("[\u4e00-\u9fff]", shown), f"add to data/ui/messages.zh.toml: {sentence!r}"
    assert all(value in shown for value in values)


def test_values_that_are_sentences_are_said_too():
    say.use("zh")
    inner = "the log is closed: open it again"
    assert told(f"{inner}; the reply is kept in memory and will be logged as soon as that works").startswith("日志已关闭")
    assert told("nobody has translated this") == "nobody has translated this"
    say.use("en")
    assert told(LedgerError(inner)) == inner


def test_values_keep_their_number():
    for pattern, chinese in messages():
        assert pattern.groups == chinese.count("{}")
