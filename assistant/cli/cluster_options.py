"""What the commands share that work on many rows: --cluster, --workers, --output."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assistant.cli.common import Progress
from assistant.errors import UsageError

if TYPE_CHECKING:
    from assistant.cluster.job import Job
    from assistant.cluster.jobs import LoggedTurn
    from assistant.store.ledger import Ledger

F = TypeVar("F", bound=Callable[..., Any])


def cluster_options(command: F) -> F:
    """--cluster, --workers, --output."""
    for option in (
        click.option("--workers", type=click.IntRange(0, 100_000), default=0, help="With --cluster: how many; 0 takes one a processor."),
        click.option("--cluster", metavar="local|ADDRESS", help="Let many workers do it, through Ray: on this machine, or a cluster."),
        click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="One JSON line a row, in order, into this file; "
                     "a run that was cut goes on with the same command."),
    ):  # fmt: skip
        command = option(command)
    return command


def wants_file(output: Path | None, cluster: str | None) -> bool:
    """Whether results go to a file. Raises UsageError for a cluster without one."""
    if cluster is not None and output is None:
        raise UsageError("--cluster needs --output FILE, so that a run that is cut can go on")
    return output is not None


def work_through(
    job: Job, items: Iterable[Any], output: Path | None, *, source: str, cluster: str | None, workers: int, total: int | None, what: str
) -> int:
    """Do the job with a progress line; returns how many results the file has."""
    from assistant.cluster.output import to_file

    assert output is not None
    progress = Progress()

    def show(done: int) -> None:
        progress(f"{what}: {done}" + (f" of {total}" if total else ""), done / total if total else None)

    try:
        return to_file(job, items, output, source=source, cluster=cluster, workers=workers, progress=show)
    finally:
        progress.done()


def hash_of(path: str) -> str:
    """The SHA-256 of a file. Raises UsageError when it cannot be read."""
    try:
        with Path(path).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def logged_turns(ledger: Ledger, ids: Iterable[str]) -> Iterator[LoggedTurn]:
    """Turns with their context, read from the log one by one."""
    from assistant.audit.replay import logged
    from assistant.cluster.jobs import LoggedTurn

    for id_ in ids:
        turn, history = logged(ledger, id_)
        yield LoggedTurn(turn, tuple(ledger.turn(t.id) for t in history) if turn.usage.cached_tokens else tuple(history))


def sampled(ledger: Ledger, count: int, seed: int) -> list[str]:
    """So many turns of the whole log."""
    import random

    everything = [turn for (turn,) in ledger.query("SELECT turn FROM ledger WHERE kind = 'output' ORDER BY seq")]
    return random.Random(seed).sample(everything, min(count, len(everything)))
