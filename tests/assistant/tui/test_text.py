"""Both languages say everything, and nothing is said that no one asks for."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import assistant.tui
from assistant.settings import Settings
from assistant.tui.commands import COMMANDS
from assistant.tui.said_keys import KeyNames
from assistant.tui.text import LANGUAGES, Catalogue, placeholders, read_catalogue

SOURCES = "\n".join(path.read_text("utf-8") for path in Path(assistant.tui.__file__).parent.rglob("*.py"))


def test_the_languages_have_the_same_keys_and_placeholders():
    zh, en = (read_catalogue(language) for language in LANGUAGES)
    settings = {f"setting.{field.name}" for field in fields(Settings)}  # English takes these from the settings themselves
    assert set(zh) - set(en) == settings and set(en) <= set(zh)
    for key in en:
        if key != "format.day" and not key.endswith("_one"):  # dates and plurals are built differently
            assert placeholders(zh[key]) == placeholders(en[key]), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_key_that_the_code_names_exists(language):
    catalogue = read_catalogue(language)
    named = set(re.findall(r"""say(?:\.get)?\(\s*["']([a-z_]+\.[a-z_]+[a-z])["']""", SOURCES))
    assert named and named <= set(catalogue), named - set(catalogue)


BUILT = ("month.", "command.", "category.", "advice.", "quality.", "action.", "finish.", "card.", "side.", "audit.", "inspector.", "plain.")
"""Families whose keys are put together at run time."""


def test_every_key_is_used():
    keys = [key.removesuffix("_one") for key in read_catalogue("en")]
    idle = [key for key in keys if f'"{key}"' not in SOURCES and f"'{key}'" not in SOURCES]
    assert [key for key in idle if not key.startswith(BUILT)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_keys_are_named_by_their_command_and_are_the_persons_own(language):
    say = Catalogue()
    say.use(language)
    named = {(key, name) for key, sentence in read_catalogue(language).items() for name in placeholders(sentence) if "." in name}
    assert len(named) > 20
    for own in ({}, {name.removeprefix("key."): "ctrl+t,f12" for _, name in named}):
        say.use_keys(own)
        for key, name in named:
            shown = say(key, **{other: 1 for other in placeholders(read_catalogue(language)[key]) if "." not in other})
            assert KeyNames(own).__getattr__(name.removeprefix("key.")) in shown and "{" not in shown
            assert not own or "Ctrl+T" in shown


def test_a_sentence_about_a_key_that_nothing_has_is_a_mistake_of_ours():
    with pytest.raises(AttributeError, match="no key does fly"):
        KeyNames({}).fly  # noqa: B018
    assert KeyNames({"fly": "f9"}).stop == "Esc"


def test_no_sentence_names_a_key_that_can_be_changed():
    """Fixed are the keys of dialogs, of the message box and of the line mode."""
    fixed = {"audit.review_keys", "dialog.input_keys", "help.line", "help.close", "pull.keys", "settings.line", "plain.welcome",
             "welcome.newline", "welcome.newline_both"}  # fmt: skip
    for language in LANGUAGES:
        found = {
            key for key, sentence in read_catalogue(language).items()
            if re.search(r"\b(Esc|F\d+|Ctrl\+\w|Alt\+|Space|Enter)(?![a-z])|\(v\)|（v）", sentence)
        }  # fmt: skip
        assert found <= fixed, found - fixed


def test_every_command_has_words():
    for language in LANGUAGES:
        catalogue = read_catalogue(language)
        for command in COMMANDS:
            assert catalogue[f"command.{command.id}.name"] and catalogue[f"command.{command.id}.help"]


def test_the_language_is_switched_at_once():
    say = Catalogue()
    assert say("dialog.close") == "Close"
    say.use("zh")
    assert say("dialog.close") == "关闭"
    assert say("footer.tokens", count=3) == "3 词元"
    assert say.get("category.nobody_knows", "as it is") == "as it is"


def test_no_chinese_in_the_english_and_the_reverse():
    english, chinese = read_catalogue("en"), read_catalogue("zh")
    assert [key for key, text in english.items() if re.search("[\u4e00-\u9fff]", text)] == ["command.language.name"]
    plain = [key for key, text in chinese.items() if not re.search("[\u4e00-\u9fff]", text)]
    assert set(plain) <= {"audit.tab_json", "plain.more", "status.loading", "model.size", "status.context"}
