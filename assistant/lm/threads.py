"""How many processor threads torch takes, and how they wait. Must be imported before torch: the runtime reads these variables once.

Threads that spin while they wait collapse the speed as soon as another program wants the core; threads that sleep at once lose half the
speed of small matrix products. A bounded spin (`GOMP_SPINCOUNT` of torch's OpenMP runtime) keeps the speed of an idle machine; while a
core is busy `pace.py` takes fewer threads (`pellucid bench engine --busy-core`).
"""

from __future__ import annotations

import os

SPIN = "20000"  # iterations, some tens of microseconds

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", SPIN)


def available_cores() -> int:
    """The cores this process may use (respects taskset and containers)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
