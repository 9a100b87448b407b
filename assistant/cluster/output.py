"""One line a result, in order, in a file that a run which was cut goes on with: what is in it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from assistant.cluster.job import Item, Job, Result
from assistant.cluster.runner import run
from assistant.errors import UsageError

Progress = Callable[[int], None]


def to_file(
    job: Job,
    items: Iterable[Item],
    output: Path,
    *,
    source: str,
    cluster: str | None,
    workers: int = 0,
    progress: Progress = lambda done: None,
) -> int:
    """Write the result of every item to `output`, going on where a run for the same `source` was cut; returns how many it holds.

    `source` identifies the items (a hash of the file that they come from). Raises UsageError when the file is that of another run.
    """
    plan = json.dumps({"source": source, "chunk": job.chunk, **job.describe()}, sort_keys=True)
    beside = output.with_name(output.name + ".unfinished")
    done = _resume(output, beside, plan, job.chunk)
    progress(done)
    judged_by = _last_policy(output) if done else None
    with output.open("ab") as file:
        for results in run(job, islice(items, done, None), cluster, workers):
            if judged_by is not None and results[0].get("policy", judged_by) != judged_by:
                raise UsageError(f"the guard has changed since {output} was begun: delete it and {beside.name}, and begin again")
            file.write(b"".join(_line(result) for result in results))
            file.flush()
            done += len(results)
            progress(done)
        os.fsync(file.fileno())
    beside.unlink(missing_ok=True)
    return done


def lines(output: Path) -> Iterator[dict[str, Any]]:
    """The results in a finished file."""
    with output.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _resume(output: Path, beside: Path, plan: str, chunk: int) -> int:
    """How many results the file holds already, in whole chunks; what is behind them is cut off."""
    if not beside.exists():
        if output.exists():
            raise UsageError(f"{output} exists already: name another file, or delete it")
        beside.write_text(plan, "utf-8")
        return 0
    if beside.read_text("utf-8") != plan:
        raise UsageError(f"{output} belongs to a run with other input or settings: name another file, or delete it and {beside.name}")
    if not output.exists():
        return 0
    ends: list[int] = []
    position = 0
    with output.open("rb+") as file:
        for line in file:
            position += len(line)
            if line.endswith(b"\n"):
                ends.append(position)
        whole = len(ends) // chunk * chunk
        file.truncate(ends[whole - 1] if whole else 0)
    return whole


def _last_policy(output: Path) -> str | None:
    """The stamp of the guard that judged the last row; None where rows have none."""
    last: dict[str, Any] = {}
    for row in lines(output):
        last = row
    return last.get("policy")


def _line(result: Result) -> bytes:
    return json.dumps(result, ensure_ascii=False, sort_keys=True).encode() + b"\n"
