"""How light the terminal application is: what drawing costs, how soon a key is answered, how a long conversation opens.

The real application runs in a pseudo-terminal of 100×30 over a real log; its engine reads from a script at 40 tokens a second, so that
every figure is the screen's alone. Keys are bytes written to the terminal, answered when the terminal shows them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assistant.benchmarks import scripted
from assistant.benchmarks.startup import first_paint

GOALS: dict[str, tuple[float, str]] = {
    "first_paint_seconds": (1.5, "s"),
    "typing_lag_p95_ms": (30.0, "ms"),
    "rendering_prose_percent": (12.0, "% of a core"),
    "rendering_list_percent": (12.0, "% of a core"),
    "rendering_code_percent": (12.0, "% of a core"),
    "open_2000_messages_seconds": (1.0, "s"),
    "long_conversation_frame_p95_ms": (40.0, "ms"),
    "idle_percent": (0.5, "% of a core"),
    "memory_per_turn_kilobytes": (4.0, "kB"),
}
"""Each figure's limit. Memory: the texts of a turn themselves take about one of the four kilobytes."""

_KEYS = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"


def bench(turns: int = 500) -> dict[str, Any]:
    """All figures of `GOALS`; `turns` is how long the memory test talks."""
    figures: dict[str, Any] = {"first_paint_seconds": statistics.median(first_paint(ready=False)[0] for _ in range(3))}
    folder = Path(tempfile.mkdtemp(prefix="pellucid-bench-"))
    try:
        conversation = scripted.fill(folder / "log.db", 1000)
        for kind in scripted.REPLIES:
            figures[f"rendering_{kind}_percent"] = 100 * _run(folder, f"stream:{kind}")["cpu"]
        lags: list[float] = []
        _run(folder, "stream:prose", lags)
        figures["typing_lag_p95_ms"] = 1000 * percentile(lags, 95)
        opened = _run(folder, f"open:{conversation}")
        figures["open_2000_messages_seconds"] = opened["open_seconds"]
        figures["long_conversation_frame_p95_ms"] = 1000 * percentile(opened["frames"], 95)
        figures["idle_percent"] = 100 * _run(folder, "idle:")["cpu"]
        memory = _run(folder, f"turns:{turns}")
        figures["memory_per_turn_kilobytes"] = memory["bytes_per_turn"] / 1000
        figures["memory_megabytes"] = memory["megabytes"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def table(figures: dict[str, Any]) -> list[str]:
    """One line a figure, with its goal and whether it is met."""
    lines = []
    for name, value in figures.items():
        limit, unit = GOALS.get(name, (None, ""))
        goal = "" if limit is None else f"≤ {limit:g} {unit}   {'✓' if value <= limit else '✗'}"
        lines.append(f"{name.replace('_', ' '):36} {value:10.3f}   {goal}".rstrip())
    return lines


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` percent of all do not exceed. Raises ValueError for no values."""
    if not values:
        raise ValueError("nothing was measured: is the terminal application running at all?")
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


def _run(folder: Path, scenario: str, lags: list[float] | None = None, timeout: float = 900.0) -> dict[str, Any]:
    """Play one scenario; with `lags`, type meanwhile and add how long each key took. Raises RuntimeError when the program fails."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "assistant.benchmarks.scripted", str(folder / "log.db"), str(report), scenario]
    with _terminal(command, {"PELLUCID_HOME": str(folder / "home")}) as (pid, terminal):
        until, began, sent, shown, keys = time.monotonic() + timeout, time.monotonic(), 0.0, b"", 0
        while time.monotonic() < until:
            if select.select([terminal], [], [], 0.002 if lags is not None else 0.2)[0]:
                try:
                    shown = shown[-8:] + os.read(terminal, 65536)
                except OSError:  # the other side is gone
                    break
                if not shown:
                    break
            now = time.monotonic()
            if lags is None or now - began < 4.0:
                continue
            if sent and _KEYS[keys % len(_KEYS)].encode() in shown:
                lags.append(now - sent)
                keys, sent, pause = keys + 1, 0.0, now
            elif not sent and (not lags or now - pause > 0.11) and len(lags) < 90:
                os.write(terminal, _KEYS[keys % len(_KEYS)].encode())
                sent, shown = now, b""
        _, status = os.waitpid(pid, 0)
    if status or not report.exists():
        raise RuntimeError(f"the scenario {scenario} failed: run `{' '.join(command)}` to see why")
    return dict(json.loads(report.read_text("utf-8")))


@contextlib.contextmanager
def _terminal(command: list[str], environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", **environment)
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    try:
        yield pid, terminal
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.close(terminal)
