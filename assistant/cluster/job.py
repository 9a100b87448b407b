"""What is to be done to every item. A job travels to the workers; what it loads stays there."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

Item = Any
Result = dict[str, Any]
Work = Callable[[Sequence[Item]], list[Result]]


class Job(ABC):
    """Small, picklable, and the same everywhere. `work` is called once in every worker."""

    chunk: ClassVar[int] = 1
    """Items that are done together: a chunk's results may depend on all of it, on nothing else."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the results depend on besides the items, as JSON: a run that was cut goes on only where this is the same."""

    @abstractmethod
    def load(self) -> tuple[Work, str]:
        """Load what is needed; returns what does a chunk, and a stamp of what was loaded, which must be the same on every worker."""


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One thread of arithmetic a worker: sums come out in one order, and workers do not get in each other's way."""
    from assistant.lm import threads  # noqa: F401, I001  (before torch)
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
