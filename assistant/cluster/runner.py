"""Runs a job over chunks, here or through Ray; either way the results come in the order of the chunks.

Through Ray a worker that dies, with its process or its machine, is started again and its chunk done again: a chunk has one result, so that
changes nothing. A chunk that kills its worker again and again is given up.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from assistant.cluster.job import Item, Job, Result, Work, single_threaded
from assistant.errors import PellucidError, UsageError

TRIES = 4
_KNOCK_SECONDS = 10.0
_WAITING = 2
"""Chunks that a worker has, the one it does and those that wait."""
_AHEAD = 4
"""Chunks a worker that may be finished before an earlier one is: what a slow chunk can hold up in memory."""


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, `size` at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def run(job: Job, items: Iterable[Item], cluster: str | None, workers: int = 0) -> Iterator[list[Result]]:
    """The results of every chunk, in order.

    cluster: None works in this process, `local` starts Ray on this machine, anything else is the address of a Ray cluster. workers: how
    many; 0 takes one a processor. Raises UsageError when Ray is not installed or not reached, and what the work itself raises.
    """
    parts = chunks(items, job.chunk)
    if cluster is None:
        yield from _here(job, parts)
    else:
        yield from _on_ray(job, parts, cluster, workers)


def _here(job: Job, parts: Iterator[list[Item]]) -> Iterator[list[Result]]:
    with single_threaded():
        work, _ = job.load()
        for part in parts:
            yield work(part)


class Worker:
    """What runs in a process of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._work: Work | None = None
        self._stamp = ""

    def stamp(self) -> str:
        """What was loaded here."""
        self._load()
        return self._stamp

    def run(self, part: list[Item]) -> list[Result] | PellucidError:
        """The results of a chunk; an error that a user can act on is handed over, not raised, for it is no reason to try again."""
        try:
            return self._load()(part)
        except PellucidError as error:
            return error

    def _load(self) -> Work:
        if self._work is None:
            self._alone = single_threaded()  # for as long as this worker lives: let go, it would end at once
            self._alone.__enter__()
            self._work, self._stamp = self._job.load()
        return self._work


def _on_ray(job: Job, parts: Iterator[list[Item]], cluster: str, workers: int) -> Iterator[list[Result]]:
    ray = connect(cluster)
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        made = ray.remote(num_cpus=1, max_restarts=-1)(Worker)
        yield from _Dispatch(ray, [made.remote(job) for _ in range(count)], parts, job.chunk)
    finally:
        ray.shutdown()


def connect(cluster: str) -> Any:
    """The `ray` module, connected. Raises UsageError."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--cluster needs an extra: pip install 'pellucid[cluster]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    try:
        if cluster == "local":
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _knock(cluster)
            ray.init(address=cluster, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        told = " ".join(str(error).split())[:200]
        raise UsageError(f"the cluster {cluster} cannot be reached ({told}): check the address, or use --cluster local") from error
    return ray


def _knock(address: str) -> None:
    """Whether anybody listens there: Ray itself waits for minutes, and then ends the program. Raises OSError or ValueError."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if address == "auto":
        return
    if not parts.hostname or not parts.port:
        raise ValueError("an address is HOST:PORT or ray://HOST:PORT")
    socket.create_connection((parts.hostname, parts.port), timeout=_KNOCK_SECONDS).close()


class _Dispatch:
    """Hands chunks to the workers, each of which finds the next one waiting when it has done one, and puts the results in order."""

    def __init__(self, ray: Any, workers: list[Any], parts: Iterator[list[Item]], size: int) -> None:
        self._ray, self._workers, self._parts, self._size = ray, workers, enumerate(parts), size
        self._under_way: dict[Any, tuple[int, list[Item], int, Any]] = {}  # promise → (number, chunk, tries, worker)
        self._lost: list[tuple[int, list[Item], int]] = []
        """Chunks whose worker died, and how often. Such a one is done with no other beside it: whose fault it was shows then."""
        self._done: dict[int, list[Result]] = {}

    def __iter__(self) -> Iterator[list[Result]]:
        self._check_stamps()
        given = 0
        self._hand_out()
        while self._under_way or self._done:
            while given in self._done:
                yield self._done.pop(given)
                given += 1
            if self._under_way:
                self._take()
            self._hand_out()

    def _hand_out(self) -> None:
        """One chunk to every worker that has none, then the ones that will wait for them."""
        for waiting in range(_WAITING):
            for worker in self._workers:
                has = [tries for _, _, tries, whose in self._under_way.values() if whose is worker]
                if len(has) <= waiting and max(has, default=1) == 1:
                    self._give(worker, alone=not has)

    def _give(self, worker: Any, *, alone: bool) -> None:
        if self._lost:
            if alone:
                self._submit(*self._lost.pop(0), worker)
            return
        if len(self._done) < _AHEAD * len(self._workers):
            number, part = next(self._parts, (None, []))
            if number is not None:
                self._submit(number, part, 1, worker)

    def _submit(self, number: int, part: list[Item], tries: int, worker: Any) -> None:
        self._under_way[worker.run.remote(part)] = (number, part, tries, worker)

    def _take(self) -> None:
        (promise,), _ = self._ray.wait(list(self._under_way), num_returns=1)
        number, part, tries, _ = self._under_way.pop(promise)
        try:
            result = self._ray.get(promise)
        except self._ray.exceptions.RayActorError as error:  # the worker died: Ray starts it again
            if tries >= TRIES:
                first = number * self._size + 1
                raise UsageError(f"rows {first} and after killed {TRIES} workers: look at them, or give more memory") from error
            self._lost.append((number, part, tries + 1))
            return
        if isinstance(result, PellucidError):
            raise result
        self._done[number] = result

    def _check_stamps(self) -> None:
        stamps = set(self._ray.get([worker.stamp.remote() for worker in self._workers]))
        if len(stamps) > 1:
            raise UsageError(f"the workers do not have the same guard or model ({', '.join(sorted(stamps))}): install the same everywhere")
