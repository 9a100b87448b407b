"""How much faster two workers judge texts than one, and whether a killed one changes anything. `pellucid bench cluster`"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant.cluster.job import Work
from assistant.cluster.jobs import Moderation
from assistant.cluster.runner import run
from assistant.settings import Settings
from safety.resources import data_path

GOALS = {"two_workers_against_one": 1.7}


@dataclass(frozen=True)
class Dying(Moderation):
    """Moderation whose first worker to see row `at` kills itself, once."""

    at: int = 0
    mark: str = ""

    def load(self) -> tuple[Work, str]:
        work, stamp = super().load()

        def dying(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            if any(row["number"] == self.at for row in rows) and not os.path.exists(self.mark):
                Path(self.mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return work(rows)

        return dying, stamp


def bench(settings: Settings, rows: int, rounds: int, *, kill: bool = True) -> dict[str, Any]:
    """Rows a second with one and with two workers (loading left out), in turn; results compared byte by byte."""
    texts = [json.loads(line)["text"] for name in ("borderline.en.jsonl", "borderline.zh.jsonl") for line in
             data_path("safety", name).read_text("utf-8").splitlines() if line.strip()]  # fmt: skip
    items = [{"text": f"{texts[i % len(texts)]} {i}", "role": "prompt", "number": i} for i in range(rows)]
    rates: dict[int, list[float]] = {1: [], 2: []}
    digests = set()
    for _ in range(rounds):
        for workers in rates:
            rate, digest = _timed(Moderation(settings), items, workers)
            rates[workers].append(rate)
            digests.add(digest)
    if kill:
        with tempfile.TemporaryDirectory() as folder:
            job = Dying(settings, at=rows // 2, mark=str(Path(folder) / "dead"))
            digests.add(_timed(job, items, 2)[1])
            killed = Path(job.mark).exists()
    best = {workers: max(found) for workers, found in rates.items()}
    return {
        "rows": rows, "guard": settings.guard, "rows_per_second_one": best[1], "rows_per_second_two": best[2],
        "two_workers_against_one": best[2] / best[1], "same_results": len(digests) == 1, **({"worker_killed": killed} if kill else {}),
    }  # fmt: skip


def _timed(job: Moderation, items: Sequence[dict[str, Any]], workers: int) -> tuple[float, str]:
    """(rows a second once every worker has done a chunk, a hash of all results)."""
    digest, done, began = hashlib.sha256(), 0, 0.0
    for number, results in enumerate(run(job, items, "local", workers), 1):
        digest.update(json.dumps(results, sort_keys=True).encode())
        if began:
            done += len(results)
        elif number == workers:
            began = time.perf_counter()
    return done / (time.perf_counter() - began), digest.hexdigest()
