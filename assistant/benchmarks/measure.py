"""What all benchmarks share: medians, the state of the machine, peak memory."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def machine() -> dict[str, Any]:
    """What the figures were measured on, with the load at this moment: a figure without it means nothing."""
    import torch

    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def peak_megabytes() -> float:
    """The largest resident size of this process so far."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if platform.system() == "Darwin" else 1e3)


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread of several measurements."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "runs": len(values)}


def interleaved(actions: dict[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Run A B C, A B C, …: each round meets the same neighbours. Returns summary per action and figure."""
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            for figure, value in action().items():
                seen[name].setdefault(figure, []).append(value)
    return {name: {figure: summary(values) for figure, values in figures.items()} for name, figures in seen.items()}


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Another program that takes one core wholly, as long as this lasts."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        try:
            time.sleep(0.5)  # until it runs and the scheduler has noticed
            yield
        finally:
            program.kill()
