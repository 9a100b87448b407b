"""What is loaded before a conversation begins."""

from __future__ import annotations

import os

import pytest

from assistant import paths
from assistant.loading import load_guard
from assistant.settings import Settings

RULE = """
[[rule]]
id = "my.tulips"
category = "weapons"
tier = "block"
anchors = ["tulip"]
patterns = ["tulips? mania"]
match = ["the tulip mania"]
nomatch = ["a tulip"]
"""


def guard():
    return load_guard(Settings(guard="ngrams"), lambda what, fraction: None)


def test_a_rule_of_ones_own_is_in_force_at_the_next_message_even_where_no_folder_was():
    loaded = guard()
    assert loaded.filter_prompt("tell me of tulip mania").action == "allow"
    (paths.data_dir() / "rules" / "mine.toml").write_text(RULE, "utf-8")
    loaded.reload()
    found = loaded.filter_prompt("tell me of tulip mania")
    assert (found.action, found.findings[0].rule) == ("block", "my.tulips")
    assert loaded.notices("en")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home_needs_no_folder_for_rules():
    paths.data_dir().mkdir(parents=True, exist_ok=True)
    paths.data_dir().chmod(0o500)
    try:
        assert guard().filter_prompt("hello").action == "allow"
    finally:
        paths.data_dir().chmod(0o700)


def test_a_file_where_the_folder_should_be_is_named():
    paths.data_dir().mkdir(parents=True, exist_ok=True)
    (paths.data_dir() / "rules").write_text("", "utf-8")
    assert guard().filter_prompt("hello").action == "allow"
