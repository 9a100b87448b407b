"""Joules per reply: measured where the machine lets itself be measured, else estimated from processor time, and always labelled.

Measured: Intel/AMD RAPL counters through Linux's powercap (package domains; often readable by root only). Estimated: processor seconds
of this process times an assumed power per busy core. The two are never mixed.
"""

from __future__ import annotations

import time
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


class _Rapl:
    """One package domain: a counter in microjoules that wraps around."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self.last = self.read()
        self.total = 0

    def read(self) -> int:
        return int(self._counter.read_text())

    def update(self) -> None:
        now = self.read()
        self.total += (now - self.last) % (self._range + 1)
        self.last = now


class Meter:
    """`start`, `stop`, `read` → (joules, source). Reading while running gives the energy so far."""

    def __init__(self, watts_per_core: float, root: Path = _POWERCAP) -> None:
        self._watts = watts_per_core
        self._root = root
        self._domains: list[_Rapl] = []
        self._cpu = self._spent = 0.0
        self._running = False

    def start(self) -> None:
        """Begin to count."""
        try:
            self._domains = [_Rapl(folder) for folder in sorted(self._root.glob("intel-rapl:[0-9]*")) if ":" not in folder.name[11:]]
        except (OSError, ValueError):  # not readable here: estimate
            self._domains = []
        self._cpu, self._spent, self._running = time.process_time(), 0.0, True

    def stop(self) -> None:
        """End counting."""
        if self._running:
            self._update()
            self._running = False

    def _update(self) -> None:
        for domain in self._domains:
            domain.update()
        now = time.process_time()
        self._spent += now - self._cpu
        self._cpu = now

    def read(self) -> tuple[float | None, str]:
        """(joules, source): `measured:rapl`, or `estimated: …` with the assumption in words; (None, "none") before `start`."""
        if self._running:
            self._update()
        if self._domains:
            return sum(d.total for d in self._domains) / 1e6, "measured:rapl"
        if not self._cpu:
            return None, "none"
        return self._spent * self._watts, f"estimated: processor seconds × {self._watts:g} W"
