"""The clipboard by commands: which ones are asked, what they are given, and what is said of it. No real clipboard is touched."""

import os
import stat
import sys

import pytest

from assistant.tui import clipboard
from assistant.tui.clipboard import Copied, Way, put, ways
from tests.assistant.tui.fakes import FakeSession, Script
from tests.assistant.tui.screens import idle, running, say_to, shows, text_of

WAYS = ways  # the function itself: the tests' terminal has none
posix = pytest.mark.skipif(sys.platform == "win32", reason="the commands are shell scripts")


def everywhere(name):
    return f"/usr/bin/{name}"


def names(environ, platform="linux", which=everywhere):
    return [way.name for way in WAYS(environ, platform, which)]


def script(tmp_path, name, body):
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Way(name, (str(path),))


def test_the_commands_of_this_desktop_are_asked_and_only_those():
    assert names({}) == []
    assert names({"WAYLAND_DISPLAY": "wayland-0", "DISPLAY": ":0"}) == ["wl-copy", "xclip", "xsel"]
    assert names({"DISPLAY": ":0", "TMUX": "/tmp/tmux-1/default,1,0"}) == ["xclip", "xsel", "tmux"]
    assert names({}, "darwin") == ["pbcopy"]
    assert names({}, "win32") == names({"WSL_DISTRO_NAME": "Debian"}) == ["PowerShell", "clip.exe"]
    assert names({"DISPLAY": ":0"}, which=lambda name: None) == []


def test_the_desktop_of_a_machine_far_away_is_not_the_persons():
    far = {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}
    assert names(far, "darwin") == names({**far, "WAYLAND_DISPLAY": "wayland-0", "WSL_INTEROP": "/run/x"}) == []
    assert names({**far, "DISPLAY": "localhost:10.0"}) == ["xclip", "xsel"]
    assert names({"TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver", "DISPLAY": ":0", "TMUX": "x"}) == []


def test_no_command_of_the_working_directory_is_run():
    assert names({"DISPLAY": ":0"}, which=lambda name: f"./{name}") == []
    assert names({}, "win32", lambda name: name) == []


@posix
def test_a_text_arrives_whole_on_the_standard_input_and_nowhere_else(tmp_path):
    way = script(tmp_path, "taker", f'cat > "{tmp_path}/text"; echo "$#" > "{tmp_path}/arguments"')
    text = "$(touch gone) 'é' 雨\n--help\x00" + "x" * 200_000
    assert put(text, [way]) == Copied("taker")
    assert (tmp_path / "text").read_text("utf-8") == text
    assert (tmp_path / "arguments").read_text() == "0\n"
    wide = Way("wide", way.command, "utf-16-le")
    assert put("雨 \ud800", [wide]).way == "wide"
    assert (tmp_path / "text").read_bytes().decode("utf-16-le") == "雨 ?"


@posix
def test_a_command_that_fails_hangs_or_is_gone_leaves_it_to_the_next(tmp_path):
    bad = script(tmp_path, "bad", "exit 3")
    slow = script(tmp_path, "slow", "exec sleep 60")
    gone = Way("gone", (str(tmp_path / "gone"),))
    good = script(tmp_path, "good", "cat > /dev/null")
    assert put("text", [bad, good]) == Copied("good", ("bad",))
    assert put("text", [gone, slow], seconds=0.2) == Copied("", ("gone", "slow"))
    assert put("x" * 1_000_000, [bad]) == Copied("", ("bad",))  # it reads nothing
    assert put("text", []) == Copied()


@posix
def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path):
    way = script(tmp_path, "daemon", "cat > /dev/null; sleep 60 & echo said; exit 0")
    assert put("text", [way], seconds=20) == Copied("daemon")


def test_a_command_gets_what_it_needs_beside_the_environment(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(clipboard, "_ran", lambda command, data, environment, seconds: seen.update(environment) or True)
    assert put("雨", WAYS({}, "darwin", everywhere)).way == "pbcopy"
    assert seen["LC_ALL"].endswith("UTF-8") and seen["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        (Copied(), "Copied 6 characters (through the terminal; not every"),
        (Copied("xclip"), "Copied 6 characters (with xclip)"),
        (Copied("tmux", ("xclip", "xsel")), "failed: xclip, xsel"),
        (Copied("", ("wl-copy",)), "failed: wl-copy"),
    ],
)
async def test_it_is_said_which_way_a_text_went(monkeypatch, copied, said):
    given = []
    monkeypatch.setattr(clipboard, "put", lambda text, ways: given.append(text) or copied)
    async with running(FakeSession(scripts=[Script("a \x1b[2J")]), size=(160, 40)) as pilot:
        await say_to(pilot, "q")
        await idle(pilot)
        await pilot.press("alt+up", "c")
        await shows(pilot, "Copied 6")
        assert said in " ".join(text_of(pilot.app).split())
        assert given == [pilot.app.clipboard] == ["a ␛[2J"]
