"""The rule files: their own examples, and what happens when one is broken."""

from dataclasses import replace
from pathlib import Path

import pytest

from safety.guard import Guard, SafetyError
from safety.resources import data_path
from safety.rule_examples import failures
from safety.rules import Rule, RuleError, load_rules
from safety.verdict import Action

RULES = load_rules(sorted(data_path("safety").glob("rules.*.toml")))


@pytest.mark.parametrize("rule", RULES, ids=[rule.id for rule in RULES])
def test_a_rule_matches_its_examples(rule: Rule) -> None:
    assert failures([rule]) == []


def test_no_rule_acts_on_a_counter_example_of_any_rule() -> None:
    assert failures(RULES) == []


def test_failures_are_named() -> None:
    wrong = replace(RULES[0], match=("nothing of the kind",), nomatch=RULES[0].match[:1])
    assert len(failures([wrong])) == 2


def test_every_rule_has_an_example_of_either_kind() -> None:
    assert [rule.id for rule in RULES if not rule.match or not rule.nomatch] == []


def rule_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = """
[[rule]]
id = "mine.codename"
category = "privacy"
tier = "block"
anchors = ["bluebird"]
patterns = ["project bluebird"]
"""


def test_a_users_rules_come_on_top(tmp_path: Path) -> None:
    guard = Guard.load(user_rules=rule_file(tmp_path, GOOD))
    verdict = guard.filter_prompt("What is project bluebird?")
    assert verdict.action is Action.BLOCK
    assert verdict.category == "privacy"
    assert guard.policy != Guard.load().policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]\n", "cannot be read"),
        (GOOD.replace('"privacy"', '"nonsense"'), "category 'nonsense' is unknown"),
        (GOOD.replace("anchors", "anchor"), "unknown field 'anchor'"),
        (GOOD.replace('anchors = ["bluebird"]\n', ""), "'anchors' is missing"),
        (GOOD.replace("project bluebird", "project (bluebird"), "no regular expression"),
        (GOOD.replace("project bluebird", "{nowhere} bluebird"), "names no list"),
        (GOOD.replace('"block"', '"maybe"'), "tier 'maybe' is unknown"),
        (GOOD + GOOD, "already taken"),
        ("[lists]\nempty = []\n" + GOOD, "[lists]"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_rule(tmp_path: Path, text: str, said: str) -> None:
    path = rule_file(tmp_path, text)
    with pytest.raises(RuleError) as caught:
        load_rules([path])
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    with pytest.raises(SafetyError, match=r"mine\.toml"):
        Guard.load(user_rules=path)


def test_rules_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SafetyError, match="no such rules"):
        Guard.load(user_rules=tmp_path / "nowhere.toml")


def test_capital_letters_in_a_users_rule_match_like_small_ones(tmp_path: Path) -> None:
    path = rule_file(
        tmp_path,
        '[[rule]]\nid = "mine.berlin"\ncategory = "privacy"\ntier = "block"\nanchors = ["Berlin"]\npatterns = ["Berlin \\\\w+"]\n',
    )
    guard = Guard.load(user_rules=path)
    for text in ("Is Berlin Mitte nice?", "is BERLIN mitte nice?", "is berlin mitte nice?"):
        assert [f.rule for f in guard.filter_prompt(text).findings] == ["mine.berlin"], text
