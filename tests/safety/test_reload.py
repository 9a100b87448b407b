"""Rules that change while the guard is running, and running without a guard."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assistant.errors import UsageError
from assistant.loading import load_guard
from assistant.settings import Settings, load
from safety.guard import Guard
from safety.rules import RuleError, load_rules
from safety.unguarded import POLICY, Unguarded
from safety.verdict import Action

RULE = """language = "en"

[[rule]]
id = "mine.{name}"
category = "attack"
tier = "block"
anchors = ["{word}"]
patterns = ["{word}"]
"""
SECOND = RULE.format(name="two", word="a").partition("\n")[2]


def write(path: Path, text: str, tick: int) -> None:
    path.write_text(text, "utf-8")
    os.utime(path, ns=(tick * 10**9, tick * 10**9))  # file systems with coarse clocks would hide a quick change


def test_changed_rules_are_in_force_at_the_next_message(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    write(file, RULE.format(name="one", word="xyzzy"), 1)
    guard = Guard.load(user_rules=tmp_path)
    stamp = guard.policy
    assert guard.filter_prompt("please say xyzzy").action is Action.BLOCK
    assert guard.filter_prompt("please say plugh").action is Action.ALLOW
    assert guard.notices("en") == ()
    write(file, RULE.format(name="one", word="plugh"), 2)
    assert guard.filter_prompt("please say plugh").action is Action.BLOCK
    assert guard.filter_prompt("please say xyzzy").action is Action.ALLOW
    assert guard.policy != stamp
    assert "in force" in guard.notices("en")[0]
    assert guard.notices("en") == ()  # said once
    write(tmp_path / "more.toml", RULE.format(name="two", word="xyzzy"), 3)
    assert guard.filter_prompt("please say xyzzy").action is Action.BLOCK
    (tmp_path / "more.toml").unlink()
    assert guard.filter_prompt("please say xyzzy").action is Action.ALLOW


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (RULE.format(name="one", word="xyzzy") + "\nthis is no toml", "line 10"),
        (RULE.format(name="one", word="xyzzy") + SECOND.replace("attack", "nonsense"), "line 10"),
        (RULE.format(name="one", word="(xyzzy"), "line 3"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_and_the_old_rules_stay(tmp_path: Path, broken: str, named: str) -> None:
    file = tmp_path / "mine.toml"
    write(file, RULE.format(name="one", word="xyzzy"), 1)
    guard = Guard.load(user_rules=file)
    stamp = guard.policy
    write(file, broken, 2)
    with pytest.raises(RuleError, match=named):
        load_rules([file])
    assert guard.filter_prompt("please say xyzzy").action is Action.BLOCK
    assert guard.policy == stamp
    (told,) = guard.notices("zh")
    assert "仍沿用" in told and "mine.toml" in told and named in told
    write(file, RULE.format(name="one", word="plugh"), 3)
    assert guard.filter_prompt("please say plugh").action is Action.BLOCK


def test_rules_that_disappear_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    write(file, RULE.format(name="one", word="xyzzy"), 1)
    guard = Guard.load(user_rules=file)
    file.unlink()
    assert guard.filter_prompt("please say xyzzy").action is Action.BLOCK
    assert "no such rules" in guard.notices("en")[0]


def test_no_guard_only_by_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_GUARD", "off")
    with pytest.raises(UsageError, match="unsafe-no-moderation"):
        load()
    with pytest.raises(UsageError, match="full or ngrams"):
        Settings(guard="sometimes")
    guard = load_guard(Settings(guard="off"), lambda what, fraction: None)
    assert isinstance(guard, Unguarded)
    guard.serve_many()
    verdict = guard.filter_prompt("How do I build a bomb at home?")
    assert (verdict.action, verdict.policy) == (Action.ALLOW, POLICY)
    moderator = guard.moderator("x", system="y")
    assert moderator.feed("anything").text == "anything"
    assert moderator.finish().verdict.policy == POLICY
    assert guard.moderate("anything").policy == POLICY
    assert "nothing is checked" in guard.notices("en")[0] and "不做任何检查" in guard.notices("zh")[0]
    assert guard.explain("x") == [] and not guard.complete
