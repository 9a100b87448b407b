"""A bounds-checked reader of .safetensors files, and a small writer.

A file is a header length (u64 little-endian), a JSON header {name: {dtype, shape, data_offsets}}, and the tensors' bytes. It is untrusted
input: the length is compared with the file before anything is read, every tensor with its own size, with the file and with its neighbours.
Tensors are memory-mapped and copied when asked for. Layout: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistant.errors import ModelError
from assistant.lm.mapped import map_file

MAX_HEADER = 16 << 20  # bytes; the largest real headers have about one
MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_DIMS = 8

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATING = ("F64", "F32", "F16", "BF16")


class SafetensorsError(ModelError):
    """The file is not a safetensors file, is damaged, or is hostile."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor is (bytes from the beginning of the file) and how it is encoded."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open file: `entries`, `metadata`, and `tensor(name)`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_file(path, SafetensorsError)
        try:
            self.entries, self.metadata = _read(self._map)
        except _Damaged as error:
            raise SafetensorsError(f"{path.name} is not a usable safetensors file: {error}; fetch the model again") from None

    def tensor(self, name: str) -> Tensor:
        """A float32 copy. Raises SafetensorsError when there is no such tensor, or it does not hold floating-point numbers."""
        entry = self.entries.get(name)
        if entry is None:
            raise SafetensorsError(f"{self.path.name} has no tensor {name!r}: it is not the model it says it is")
        if entry.dtype not in FLOATING:
            raise SafetensorsError(f"tensor {name} is of type {entry.dtype}, which cannot be read: use another edition of this model")
        if not math.prod(entry.shape):
            return torch.empty(entry.shape)
        dtype = DTYPES[entry.dtype]
        if entry.begin % dtype.itemsize:  # an odd header: the bytes must be moved to an aligned place first
            flat = torch.frombuffer(bytearray(self._map[entry.begin : entry.end]), dtype=dtype)
        else:
            with warnings.catch_warnings():  # the map is read-only; it is only copied from
                warnings.simplefilter("ignore")
                flat = torch.frombuffer(self._map, dtype=dtype, count=math.prod(entry.shape), offset=entry.begin)
        return flat.view(entry.shape).to(torch.float32, copy=True)


class _Damaged(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Damaged("a name occurs twice in its header")
    return found


def _read(data: mmap.mmap) -> tuple[dict[str, Entry], dict[str, str]]:
    size = len(data)
    if size < 8:
        raise _Damaged("it is shorter than its header")
    length: int = struct.unpack_from("<Q", data)[0]
    if length > MAX_HEADER:
        raise _Damaged(f"its header is said to be {length} bytes long, more than {MAX_HEADER}")
    if 8 + length > size:
        raise _Damaged("its header reaches beyond the end of the file")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _Damaged("its header is not JSON") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise _Damaged("its header is not a table of tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _Damaged("its metadata is not a table of texts")
    entries = {name: _entry(name, value, 8 + length, size) for name, value in header.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    for (before, a), (after, b) in itertools.pairwise(ordered):
        if a.end > b.begin:
            raise _Damaged(f"tensors {before} and {after} overlap")
    return entries, metadata


def _entry(name: str, value: Any, base: int, size: int) -> Entry:
    if not name or len(name) > MAX_NAME or not name.isascii() or not name.isprintable():
        raise _Damaged("a tensor's name has characters that no name has")
    if not isinstance(value, dict):
        raise _Damaged(f"tensor {name} is not described")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or not re.fullmatch(r"[A-Z0-9_]{1,16}", dtype):
        raise _Damaged(f"tensor {name} has no type")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise _Damaged(f"tensor {name} has an impossible shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise _Damaged(f"tensor {name} has no place in the file")
    begin, end = offsets
    if begin > end or base + end > size:
        raise _Damaged(f"tensor {name} reaches beyond the end of the file (is the download complete?)")
    if dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[dtype].itemsize:  # Python integers: no overflow
        raise _Damaged(f"tensor {name} takes {end - begin} bytes, which its type and shape do not")
    return Entry(dtype, tuple(shape), base + begin, base + end)


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file, and give it its name only when it is whole. Tensors of any dtype in `DTYPES`, on any device."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as handle:
            handle.write(struct.pack("<Q", len(head)) + head)
            for tensor in tensors.values():
                handle.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
