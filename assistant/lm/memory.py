"""Will a model fit? Asked before it is loaded: a system that lends more memory than it has ends the program instead of refusing."""

from __future__ import annotations

from pathlib import Path

from assistant.errors import ModelError

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.5, "int4": 4.7, "int4+bfloat16": 2.7}
"""Per weight, while loaded on the CPU; int8 keeps its embeddings in bfloat16, int4 a float32 copy of all for reading prompts."""
SMALLER = ("bfloat16", "int8")
"""What is suggested, the closer to float32 first."""
MEMINFO = Path("/proc/meminfo")


def available() -> int | None:
    """Bytes that could still be used without swapping; None where the system does not say."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def check(name: str, weights: int, dtype: str) -> None:
    """Raises ModelError when a model of so many `weights` cannot fit as `dtype`."""
    free = available()
    if free is not None and weights * BYTES[dtype] > free:
        raise too_large(name, dtype, weights, free)


def too_large(name: str, dtype: str, weights: int = 0, free: int = 0) -> ModelError:
    """The error, naming a smaller dtype where there is one that may help."""
    smaller = next((d for d in SMALLER if BYTES[d] < BYTES[dtype] and (not weights or weights * BYTES[d] <= free)), None)
    if not weights:
        if smaller:
            return ModelError(f"{name} does not fit into memory as {dtype}: try --dtype {smaller} or a smaller model")
        return ModelError(f"{name} does not fit into memory as {dtype}: try a smaller model")
    needed, there = weights * BYTES[dtype] / 1e9, free / 1e9
    if smaller:
        return ModelError(
            f"{name} needs {needed:.1f} GB of memory as {dtype}, {there:.1f} GB are free: try --dtype {smaller} or a smaller model"
        )
    return ModelError(f"{name} needs {needed:.1f} GB of memory as {dtype}, {there:.1f} GB are free: try a smaller model")
