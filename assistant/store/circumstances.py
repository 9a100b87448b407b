"""What can change a reply besides its prompt: the program, the model, the policy, the sampling. Logged when it changes.

The first turn of a session is preceded by a `session` record with all of it; later `model.load`, `policy.change` and
`config.change` records say what became different, before the first turn that it concerns.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from assistant.store.canonical import Record
from assistant.store.driver import newest
from assistant.turn import Sampling, Turn


class Circumstances:
    """The circumstances of the last turn of this session."""

    def __init__(self) -> None:
        self._last: dict[str, Record] = {}

    def changes(self, turn: Turn) -> list[tuple[str, Record]]:
        """The events to be logged before `turn`: (kind, fields)."""
        now = _of(turn)
        if not self._last:
            return [("session", {**_program(), **now["model.load"], **now["policy.change"], **now["config.change"]})]
        return [(kind, now[kind]) for kind in now if now[kind] != self._last[kind]]

    def settle(self, turn: Turn) -> Callable[[], None]:
        """`turn` and its events are logged; returns what takes that back."""
        before, self._last = self._last, _of(turn)

        def back() -> None:
            self._last = before

        return back


def _of(turn: Turn) -> dict[str, Record]:
    model, sampling = turn.model, turn.sampling
    settings = {f.name: repr(getattr(sampling, f.name)) for f in fields(Sampling) if f.name not in ("seed", "stop")}
    return {
        "model.load": {"model": model.name, "weights": model.sha256, "dtype": model.dtype, "device": model.device},
        "policy.change": {"policy": turn.prompt_verdict.policy},
        "config.change": {"sampling": settings},
    }


def _program() -> Record:
    """This program and what it runs on. Asks torch only when something else has loaded it."""
    try:
        version = importlib.metadata.version("pellucid")
    except importlib.metadata.PackageNotFoundError:
        version = "source"
    out: Record = {
        "app": version,
        "python": platform.python_version(),
        "sqlite": newest.sqlite_version,
        "system": platform.system(),
        "machine": platform.machine(),
    }
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        out |= {"torch": str(torch.__version__), "threads": int(torch.get_num_threads())}
    kernels: Any = sys.modules.get("assistant.lm.kernels")
    if kernels is not None:
        out["kernels"] = str(kernels.current)
    return out
