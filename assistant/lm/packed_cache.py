"""Packed weights kept on disk between starts: packing takes longer than everything else of a load, mapping a file takes nothing.

One file a model, CPU capability and torch version (the layout of packed int4 blocks depends on them): the magic `PLCDPACK`, the length
of a JSON header as u64 little-endian, the header, then the tensors, 64-byte aligned. It holds no pickle, and a checksum over all
tensors; whatever does not fit is ignored and written anew.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

MAGIC = b"PLCDPACK"
ALIGNMENT = 64
HEADER_LIMIT = 1 << 20
DTYPES = {"int8": torch.int8, "uint8": torch.uint8, "int32": torch.int32, "float32": torch.float32, "bfloat16": torch.bfloat16}
Tensors = dict[str, Tensor]


def cached(folder: Path | None, model_sha256: str, make: Callable[[], Tensors]) -> Tensors:
    """The tensors that `make` gives, from the cache where it has them; without a folder, always made."""
    if folder is None:
        return make()
    key = f"1 {model_sha256} {torch.__version__} {torch.backends.cpu.get_cpu_capability()}"
    file = folder / f"{model_sha256[:16]}-{zlib.crc32(key.encode()):08x}.packed"
    found = read(file, key)
    if found is None:
        found = make()
        write(file, key, found)
    return found


def read(file: Path, key: str) -> Tensors | None:
    """What `write` stored under this key, mapped into memory; None when there is nothing sound."""
    try:
        with file.open("rb") as handle:
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        magic, length = data[: len(MAGIC)], struct.unpack_from("<Q", data, len(MAGIC))[0]
        if magic != MAGIC or length > HEADER_LIMIT:
            return None
        start = _aligned(len(MAGIC) + 8 + length)
        header = json.loads(data[len(MAGIC) + 8 : len(MAGIC) + 8 + length])
        view = memoryview(data)[start:]
        if header["key"] != key or header["bytes"] != len(view) or zlib.crc32(view) != header["crc32"]:
            return None
        return {name: _tensor(view, **entry) for name, entry in header["tensors"].items()}
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError):
        return None


def _tensor(view: memoryview, dtype: str, shape: list[int], offset: int) -> Tensor:
    kind, count = DTYPES[dtype], 1
    for size in shape:
        count *= size
    with warnings.catch_warnings():  # the map is read-only, and nothing writes to packed weights
        warnings.simplefilter("ignore")
        return torch.frombuffer(view, dtype=kind, count=count, offset=offset).view(shape)


def write(file: Path, key: str, tensors: Tensors) -> None:
    """Store atomically. A full or read-only disk costs the next start its time, nothing else."""
    entries, at, checksum = {}, 0, 0
    parts: list[bytes] = []
    for name, tensor in tensors.items():
        flat = tensor.detach().contiguous().view(-1)
        raw = flat.view(torch.uint8).numpy().tobytes()
        padded = raw + bytes(_aligned(len(raw)) - len(raw))
        entries[name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "offset": at}
        checksum = zlib.crc32(padded, checksum)
        at += len(padded)
        parts.append(padded)
    header = json.dumps({"key": key, "bytes": at, "crc32": checksum, "tensors": entries}).encode()
    head = MAGIC + struct.pack("<Q", len(header)) + header
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(head + bytes(_aligned(len(head)) - len(head)))
                handle.writelines(parts)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError:
        return


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
