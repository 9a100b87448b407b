"""Which matrix kernels suit this processor: measured once, kept on disk, said by `pellucid bench engine`.

A token at a time (M = 1) a matrix product waits for memory, a prompt at once (M = 128) it waits for arithmetic, and processors differ in
both: one with bfloat16 instructions reads prompts two to three times faster in bfloat16 than in float32, one without them three times
slower, and where the int4 kernel was compiled without vector code plain bfloat16 writes faster. So nothing is assumed.

What a choice may change is kept apart. Another *precision* changes what is computed: it is a dtype of its own (`int4+bfloat16`: tokens on
int4, prompts and biases in bfloat16), logged with every turn and loaded again by a replay, whatever its own processor would prefer. Another
*kernel* of the same precision only adds in another order: a replay allows for that, and the `session` record of the log names it.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.errors import UsageError

VARIABLE = "PELLUCID_KERNELS"
"""Set to `default` (measure nothing) or `measure` (again), or name kernels: columns or rows, native or onednn, joined by commas."""
WORTH = 20_000_000
"""Models with fewer weights are quick with any kernel: nothing is measured for them."""
NAMES = ("columns", "rows", "native", "onednn")
FORMATS = {
    "int4": ("int4", "float32"),
    "int4+bfloat16": ("int4", "bfloat16"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "float32": ("float32", "float32"),
}
"""The dtypes that keep the quality of a 4-bit file: what each writes tokens with, and what it reads prompts with."""
CLEARLY = 0.85
"""Another choice than the first must take at most this part of its time."""
ROWS, COLUMNS, COPIES, PROMPT = 2048, 1024, 8, 128
"""The matrix that is measured; how many different ones a token meets, so that they do not stay in the processor's cache; the prompt."""
HOPELESS = 3.0
"""So much slower than another for the same work: measured once only."""

T = TypeVar("T")
Action = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Kernels:
    """What this processor was measured to need; without measurements, what is fastest on most."""

    seconds: Mapping[str, float]
    """For a million weights: one token (`token …`) or a prompt of 128 (`prompt …`)."""
    forced: frozenset[str] = frozenset()
    processes: int = 1
    """How many share the model (`parallel.py`)."""

    @property
    def dtype(self) -> str:
        """The one of FORMATS that reads 128 tokens and writes 128 in the shortest time; int4 unless another is clearly faster, where those
        that write tokens alike are compared by how they read prompts."""
        never = float("inf")
        cost = {
            name: PROMPT * self.seconds.get(f"token {writes}", never) + self.seconds.get(f"prompt {reads}", never)
            for name, (writes, reads) in FORMATS.items()
        }
        best = min(cost, key=lambda name: cost[name])
        if FORMATS[best][0] == "int4":
            cost = {name: self.seconds.get(f"prompt {reads}", never) for name, (_, reads) in FORMATS.items()}
        return best if cost[best] < CLEARLY * cost["int4"] else "int4"

    @property
    def columns(self) -> bool:
        """Whether float32 prompts are read feature-major (`prefill.py`)."""
        return "rows" not in self.forced and ("columns" in self.forced or not self._faster("prompt float32", "prompt float32 columns"))

    @property
    def native(self) -> bool:
        """Whether a token's bfloat16 products leave oneDNN out."""
        return "onednn" not in self.forced and ("native" in self.forced or not self._faster("token bfloat16 onednn", "token bfloat16"))

    def _faster(self, other: str, first: str) -> bool:
        there = other in self.seconds and first in self.seconds
        return there and self.seconds[other] < CLEARLY * self.seconds[first]

    def __str__(self) -> str:
        """As the log names them."""
        capability = torch.backends.cpu.get_cpu_capability()
        named = f"{capability} {'columns' if self.columns else 'rows'} {'native' if self.native else 'onednn'}"
        return named if self.processes == 1 else f"{named} in {self.processes} processes"


USUAL = Kernels({})
"""Where nothing was measured."""
current = USUAL
"""Those of the engine that was loaded last, for the log."""


def choose(folder: Path | None, *, weights: int, processes: int = 1) -> Kernels:
    """The kernels for a model of so many weights: from `folder`, else measured and kept there; without a folder the usual ones.

    Raises UsageError when PELLUCID_KERNELS names something else than kernels.
    """
    global current
    asked = set(filter(None, os.environ.get(VARIABLE, "").split(",")))
    if unknown := asked - {*NAMES, "default", "measure"}:
        raise UsageError(f"{VARIABLE} knows default, measure, {', '.join(NAMES)}: not {min(unknown)}")
    forced = frozenset(asked & {*NAMES})
    if folder is None or "default" in asked or weights < WORTH:
        current = Kernels({}, forced, processes)
        return current
    key = f"1 {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    file = folder / f"kernels-{zlib.crc32(key.encode()):08x}.json"
    seconds = None if "measure" in asked else _read(file, key)
    if seconds is None:
        seconds = measure()
        _write(file, key, seconds)
    current = Kernels(seconds, forced, processes)
    return current


@torch.inference_mode()
def measure(rounds: int = 12) -> dict[str, float]:
    """Seconds for a million weights of every kernel that works here: the best of some rounds, the kernels in turn."""
    best: dict[str, float] = {}
    actions = _actions()
    for _ in range(rounds):
        for name, (action, weights) in list(actions.items()):
            began = time.perf_counter()
            try:
                action()
            except (RuntimeError, NotImplementedError, AttributeError):  # this build of torch has not this kernel
                del actions[name]
                continue
            best[name] = min(best.get(name, float("inf")), (time.perf_counter() - began) / weights * 1e6)
        for work in ("token", "prompt"):
            of_work = [name for name in actions if name.startswith(work)]
            for name in of_work:
                if best[name] > HOPELESS * min(best[other] for other in of_work):
                    del actions[name]
    return best


def _actions() -> dict[str, tuple[Action, int]]:
    """Each kernel, and how many weights one call multiplies with."""
    token, prompt = torch.ones(1, COLUMNS), torch.ones(PROMPT, COLUMNS)
    half_token, half_prompt, upright = token.bfloat16(), prompt.bfloat16(), prompt.t().contiguous()
    exact = [torch.full((ROWS, COLUMNS), 0.5) for _ in range(COPIES)]
    half, codes = [w.bfloat16() for w in exact], [w.to(torch.int8) for w in exact]
    one = torch.ones(ROWS, dtype=torch.bfloat16)
    fours, zeros = _int4()
    ops = torch.ops.aten
    actions = {
        "token int4": _each(fours, lambda w: ops._weight_int4pack_mm_for_cpu(half_token, w, 32, zeros)),
        "token int8": _each(codes, lambda w: ops._weight_int8pack_mm(half_token, w, one)),
        "token bfloat16": _each(half, lambda w: without_onednn(lambda: F.linear(half_token, w))),
        "token float32": _each(exact, lambda w: F.linear(token, w)),
        "prompt float32": _each(exact[:1], lambda w: F.linear(prompt, w)),
        "prompt float32 columns": _each(exact[:1], lambda w: torch.mm(w, upright)),
        "prompt bfloat16": _each(half[:1], lambda w: F.linear(half_prompt, w)),
    }
    if onednn_has_bfloat16():
        actions["token bfloat16 onednn"] = _each(half, lambda w: F.linear(half_token, w))
    return actions


def _each(matrices: list[Tensor], product: Callable[[Tensor], object]) -> tuple[Action, int]:
    return lambda: [product(w) for w in matrices], ROWS * COLUMNS * len(matrices)


def _int4() -> tuple[list[Tensor], Tensor]:
    zeros = torch.zeros(COLUMNS // 32, ROWS, 2, dtype=torch.bfloat16)
    try:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(torch.ones(ROWS, COLUMNS, dtype=torch.int32), 1)
    except (RuntimeError, NotImplementedError, AttributeError):
        return [torch.empty(0)], zeros  # the product will fail as well, and be left out
    return [packed.clone() for _ in range(COPIES)], zeros


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN takes bfloat16 products of this processor; else torch multiplies natively in any case."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]


def without_onednn(action: Callable[[], T]) -> T:
    """`action`, its matrix products multiplied by torch's own kernels."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        return action()
    finally:
        torch._C._set_mkldnn_enabled(before)


def _read(file: Path, key: str) -> dict[str, float] | None:
    try:
        kept = json.loads(file.read_text("utf-8"))
        return {str(name): float(value) for name, value in kept["seconds"].items()} if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _write(file: Path, key: str, seconds: Mapping[str, float]) -> None:
    """A disk that is full or read-only costs the next start another measurement, nothing else."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"key": key, "seconds": seconds}), "utf-8")
        part.replace(file)
    except OSError:
        return
