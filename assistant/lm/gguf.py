"""A bounds-checked reader of GGUF model files (versions 2 and 3), and a small writer for tests and export.

A GGUF file is untrusted input: every length is compared with what is left of the file before anything is allocated, and every
tensor with the file, its alignment and its neighbours. Whatever is wrong raises `GGUFError`, in milliseconds.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from assistant.errors import ModelError
from assistant.lm.mapped import map_file

MAX_ENTRIES = 10_000  # of metadata or tensors; real files have hundreds
MAX_ARRAY = 1_000_000  # the largest vocabularies have 262,144 pieces
MAX_KEY = 256
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20

_ARRAY, _STRING, _BOOL = 9, 8, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_LENGTH = struct.Struct("<Q").unpack_from


class GGUFError(ModelError):
    """The file is not a GGUF file, is damaged, or is hostile."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor is and how it is encoded. `shape` is in torch order: outermost dimension first."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size: int


class GGUFFile:
    """An open GGUF file: `metadata`, `tensors`, and `raw(name)` for a tensor's bytes (memory-mapped, not copied)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = map_file(path, GGUFError)
        try:
            self.metadata, self.tensors = _Cursor(self._map).read()
        except GGUFError as error:
            raise GGUFError(f"{path.name} is not a usable GGUF file: {error}; fetch the model again") from None

    def raw(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a tensor. Raises GGUFError when there is no such tensor."""
        info = self.tensors.get(name)
        if info is None:
            raise GGUFError(f"{self.path.name} has no tensor {name!r}: it is not the model it says it is")
        return np.frombuffer(self._map, np.uint8, info.size, info.offset)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """A metadata value of the expected type; `default` when absent (None: the key is required)."""
        value = self.metadata.get(key, default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise GGUFError(f"{self.path.name}: metadata {key!r} is missing or not of type {kind.__name__}")
        return value


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise GGUFError(f"{what} reaches beyond the end of the file")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, fmt: str, what: str) -> Any:
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt), what))[0]

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.number("Q", what)
        if limit is not None and length > limit:
            raise GGUFError(f"{what} is {length} bytes long, more than {limit}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise GGUFError(f"{what} is not UTF-8") from None

    def texts(self, count: int, what: str) -> list[str]:
        """So many strings one after the other: `text` written out, since a vocabulary has a hundred thousand."""
        data, size, at, out = self.data, self.size, self.at, []
        try:
            for _ in range(count):
                begin = at + 8
                if begin > size or (at := begin + _LENGTH(data, at)[0]) > size:
                    raise GGUFError(f"{what} reaches beyond the end of the file")
                out.append(data[begin:at].decode("utf-8"))
        except UnicodeDecodeError:
            raise GGUFError(f"{what} is not UTF-8") from None
        self.at = at
        return out

    def name(self, what: str) -> str:
        name = self.text(what, MAX_KEY)
        if not name or not name.isascii() or not name.isprintable() or ".." in name or "/" in name:
            raise GGUFError(f"{what} {name!r} has characters that no name has")
        return name

    def count(self, what: str, limit: int) -> int:
        value: int = self.number("Q", what)
        if value > limit:
            raise GGUFError(f"{what} is {value}, more than {limit}")
        return value

    def value(self, kind: int, key: str, inside_array: bool = False) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind], key)
        if kind == _STRING:
            return self.text(key)
        if kind != _ARRAY:
            raise GGUFError(f"{key} has the unknown value type {kind}")
        if inside_array:
            raise GGUFError(f"{key} is an array of arrays")
        element, length = self.number("I", key), self.count(f"the length of {key}", MAX_ARRAY)
        if element in _NUMBERS:
            dtype = np.dtype("<" + {"?": "u1"}.get(_NUMBERS[element], _NUMBERS[element]))
            return np.frombuffer(self.take(length * dtype.itemsize, key), dtype).tolist()
        if element == _STRING:
            return self.texts(length, key)
        return [self.value(element, key, inside_array=True) for _ in range(length)]

    def read(self) -> tuple[Mapping[str, Any], Mapping[str, TensorInfo]]:
        if self.take(4, "the header") != b"GGUF":
            raise GGUFError("it does not begin with GGUF")
        version = self.number("I", "the version")
        if version not in (2, 3):
            raise GGUFError(f"version {version} is not supported (2 and 3 are)")
        n_tensors = self.count("the number of tensors", MAX_ENTRIES)
        n_metadata = self.count("the number of metadata entries", MAX_ENTRIES)
        metadata: dict[str, Any] = {}
        for _ in range(n_metadata):
            key = self.name("a metadata key")
            if key in metadata:
                raise GGUFError(f"metadata {key} occurs twice")
            metadata[key] = self.value(self.number("I", key), key)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise GGUFError(f"general.alignment is {alignment!r}, not a power of two up to {MAX_ALIGNMENT}")
        headers: dict[str, tuple[tuple[int, ...], GGMLQuantizationType, int]] = {}
        for _ in range(n_tensors):
            name = self.name("a tensor's name")
            if name in headers:
                raise GGUFError(f"tensor {name} occurs twice")
            headers[name] = self.tensor(name)
        return metadata, self.place(headers, -(-self.at // alignment) * alignment, alignment)

    def tensor(self, name: str) -> tuple[tuple[int, ...], GGMLQuantizationType, int]:
        n_dims = self.number("I", name)
        if not 1 <= n_dims <= MAX_DIMS:
            raise GGUFError(f"tensor {name} has {n_dims} dimensions")
        dims = [int(self.number("Q", name)) for _ in range(n_dims)]
        if any(not 0 < d < 1 << 40 for d in dims):
            raise GGUFError(f"tensor {name} has the impossible shape {dims}")
        code = self.number("I", name)
        try:
            kind = GGMLQuantizationType(code)
        except ValueError:
            raise GGUFError(f"tensor {name} has the unknown type {code}") from None
        return tuple(reversed(dims)), kind, self.number("Q", name)

    def place(
        self, headers: Mapping[str, tuple[tuple[int, ...], GGMLQuantizationType, int]], base: int, alignment: int
    ) -> Mapping[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for name, (shape, kind, offset) in headers.items():
            elements = 1
            for d in shape:  # Python integers: no overflow
                elements *= d
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if shape[-1] % block:
                raise GGUFError(f"tensor {name}: rows of {shape[-1]} are no multiple of the {kind.name} block of {block}")
            if offset % alignment:
                raise GGUFError(f"tensor {name} is not aligned to {alignment} bytes")
            size = elements // block * block_bytes
            if base + offset + size > self.size:
                raise GGUFError(f"tensor {name} reaches beyond the end of the file (is the download complete?)")
            tensors[name] = TensorInfo(name, shape, kind, base + offset, size)
        ordered = sorted(tensors.values(), key=lambda t: t.offset)
        for before, after in itertools.pairwise(ordered):
            if before.offset + before.size > after.offset:
                raise GGUFError(f"tensors {before.name} and {after.name} overlap")
        return tensors


def write(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    types: Mapping[str, GGMLQuantizationType] | None = None,
) -> None:
    """Write a GGUF version 3 file with float32 tensors; those named in `types` are rows of quantised bytes.

    Values: str, bool, int (u32), float (f32), lists of str, int or float.
    """
    alignment = 32
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _encode(value)
    blobs: list[bytes] = []
    offset = 0
    for name, array in tensors.items():
        kind = (types or {}).get(name, GGMLQuantizationType.F32)
        block, size = GGML_QUANT_SIZES[kind]
        dims = array.shape[::-1]
        if kind is not GGMLQuantizationType.F32:
            dims = (dims[0] // size * block, *dims[1:])
        out += _string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        blob = np.ascontiguousarray(array, "<f4" if kind is GGMLQuantizationType.F32 else np.uint8).tobytes()
        blobs.append(blob + b"\0" * (-len(blob) % alignment))
        offset += len(blobs[-1])
    out += b"\0" * (-len(out) % alignment)
    path.write_bytes(bytes(out) + b"".join(blobs))


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _encode(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if all(isinstance(v, str) for v in value):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_string(v) for v in value)
    kind, fmt = (5, "i") if all(isinstance(v, int) for v in value) else (6, "f")
    return struct.pack(f"<IIQ{len(value)}{fmt}", _ARRAY, kind, len(value), *value)
