"""The real application in a pseudo-terminal: no control sequence of a prompt, reply, title, model or log reaches the terminal."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

import pytest

FOREIGN = {
    "clipboard": b"\x1b]52;c;cHduZWQ",
    "link": b"\x1b]8;;http://evil",
    "title": b"\x1b]0;t1tle",
    "cursor report": b"\x1b[6n",
    "reset": b"\x1bc",
    "sixel": b"\x1bPq#0",
    "kitty graphics": b"\x1b_Ga=T",
    "C1": b"\xc2\x9b31m",
    "C1 title": b"\xc2\x9d0;c1",
    "bell": b"\x07\x08",
    "bidi": "\u202e".encode(),
    "tag": "\U000e0041".encode(),
}


def recorded(*arguments):
    """All bytes that the application wrote to its terminal, and its exit code."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "TEXTUAL_ANIMATIONS": "none"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.assistant.tui.hostile_app", *arguments],
        stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(child)
    data, until = b"", time.monotonic() + 120
    try:
        while time.monotonic() < until:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    piece = os.read(main, 65536)
                except OSError:
                    break
                if not piece:
                    break
                data += piece
            elif process.poll() is not None:
                break
        return data, process.wait(10)
    finally:
        process.kill()
        os.close(main)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a Unix thing")
def test_no_control_sequence_of_a_text_reaches_the_terminal():
    data, code = recorded()
    assert code == 0, data[-3000:].decode("utf-8", "replace")
    assert data.count(b"ev1l") > 5  # the texts were shown
    assert "␛]52;c;cHduZWQ=␛".encode() in data
    assert [name for name, sequence in FOREIGN.items() if sequence in data] == []


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a Unix thing")
def test_the_test_has_teeth():
    data, _ = recorded("--teeth")  # one notification that goes round the gate
    assert FOREIGN["clipboard"] in data
