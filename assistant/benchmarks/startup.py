"""How long until something is there: the program's first answer, the first paint of the terminal application, the loaded model."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import Any

from assistant.benchmarks.measure import summary

COMMAND = [sys.executable, "-c", "from assistant.cli.main import main; main()"]


def bench(rounds: int = 3) -> dict[str, Any]:
    """Seconds from starting the process, medians: `help`, `first_paint` (the prompt box is on the screen), `ready` (model loaded)."""
    helps, paints, readies = [], [], []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], stdout=subprocess.DEVNULL, check=True)
        helps.append(time.perf_counter() - began)
        paint, ready = first_paint()
        paints.append(paint)
        readies.append(ready)
    return {"help_seconds": summary(helps), "first_paint_seconds": summary(paints), "ready_seconds": summary(readies)}


def first_paint(timeout: float = 120.0, *, ready: bool = True) -> tuple[float, float]:
    """Start the terminal application in a pseudo-terminal of 100×30; seconds until the first paint, and until the model is loaded.

    Not `ready`: wait for the first paint only.
    """
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", PELLUCID_LANGUAGE="en")
        os.execv(COMMAND[0], COMMAND)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    seen, paint = b"", None
    try:
        while time.perf_counter() - began < timeout:
            if select.select([terminal], [], [], 0.05)[0]:
                seen += os.read(terminal, 65536)
            text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen)
            if paint is None and b"Write a message" in text:
                paint = time.perf_counter() - began
                if not ready:
                    return paint, paint
            if paint is not None and re.search(rb"0/\d+ \(0%\)", text):
                return paint, time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    raise TimeoutError(f"the terminal application was not ready after {timeout:.0f} s")
