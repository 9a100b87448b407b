"""Reader of the frozen trunk: multilingual-e5-small as one `E5S1` file (the member of a wheel that is fetched, never
installed).

Layout, little endian: magic `E5S1`, u32 version; i32 width, layers, heads, feed-forward, vocabulary, positions, types;
f32 epsilon; i32 block (32); i32 pieces, bos, eos, pad, unk; u64 bytes of all pieces, u32 offsets (pieces + 1), f32
scores, the pieces in UTF-8; i32 and u32 of a normalisation map that is not used; i32 tensors, and for each: u16 name
length, name, u8 type (0 = f32, 1 = Q4_0), u32 elements, u64 place, u64 bytes. Q4_0 is blocks of 32 weights: an fp16
scale d and 16 bytes; byte j holds q of weight j (low half) and of weight j + 16 (high half); weight = d · (q − 8).

Every length is checked against the file before anything is read.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])
Floats = NDArray[np.float32]


class BaseWeightsError(Exception):
    """The file is not the trunk it should be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the trunk."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    epsilon: float


class BaseWeights:
    """The file, open and checked. Tensors are dequantised when asked for."""

    def __init__(self, path: Path, sha256: str | None = SHA256) -> None:
        """Raises BaseWeightsError. `sha256` None trusts the file (tests make small ones)."""
        self.path = path
        try:
            self._data = path.read_bytes()
            if sha256 is not None and hashlib.sha256(self._data).hexdigest() != sha256:
                raise BaseWeightsError(
                    f"{path}: this is not the encoder that the guard was trained on (its SHA-256 differs); fetch it again"
                )
            self._read_header()
        except (OSError, struct.error, ValueError, UnicodeDecodeError) as error:
            raise BaseWeightsError(f"{path}: the encoder cannot be read ({error}); fetch it again") from error

    def _read_header(self) -> None:
        data = self._data
        if data[:4] != b"E5S1":
            raise ValueError("it does not begin with E5S1")
        place = 8
        (width, layers, heads, inner, vocabulary, positions, _types, epsilon, block) = struct.unpack_from("<7ifi", data, place)
        if block != 32 or not (0 < width <= 4096 and 0 < layers <= 64 and 0 < heads <= width and 0 < inner <= 16384):
            raise ValueError("impossible sizes")
        self.shape = Shape(width, layers, heads, inner, vocabulary, positions, epsilon)
        place += 36
        count, self.bos, self.eos, self.pad, self.unknown = struct.unpack_from("<5i", data, place)
        (size,) = struct.unpack_from("<Q", data, place + 20)
        place += 28
        if not 0 < count <= 1_000_000:
            raise ValueError("impossible vocabulary")
        offsets = np.frombuffer(data, "<u4", count + 1, place)
        place += 4 * (count + 1)
        self.scores = np.frombuffer(data, "<f4", count, place)
        place += 4 * count
        blob = data[place : place + size]
        if offsets[-1] > len(blob) or (np.diff(offsets.astype(np.int64)) < 0).any():
            raise ValueError("the pieces lie outside the file")
        ends = offsets.tolist()
        self.pieces = [blob[a:b].decode() for a, b in pairwise(ends)]
        place += size
        place += 8 + struct.unpack_from("<I", data, place + 4)[0]
        (tensors,) = struct.unpack_from("<i", data, place)
        place += 4
        self._directory: dict[str, tuple[int, int, int]] = {}
        for _ in range(tensors):
            (length,) = struct.unpack_from("<H", data, place)
            name = data[place + 2 : place + 2 + length].decode()
            kind, elements, where, held = struct.unpack_from("<BIQQ", data, place + 2 + length)
            place += 2 + length + 21
            needed = elements * 4 if kind == 0 else elements // 32 * 18
            if kind not in (0, 1) or held < needed or where + needed > len(data):
                raise ValueError(f"tensor {name} lies outside the file")
            self._directory[name] = (kind, elements, where)

    def tensor(self, name: str) -> Floats:
        """The flat float32 values of a tensor. Raises BaseWeightsError when there is no such tensor."""
        kind, elements, where = self._entry(name)
        if kind == 0:
            return np.frombuffer(self._data, "<f4", elements, where).astype(np.float32)
        return _values(np.frombuffer(self._data, _BLOCK, elements // 32, where)).reshape(-1)

    def rows(self, name: str, width: int) -> NDArray[Any]:
        """A quantised table as (rows, blocks a row), to be dequantised a few rows at a time with `dequantised`."""
        kind, elements, where = self._entry(name)
        if kind != 1:
            raise BaseWeightsError(f"{self.path}: {name} is not quantised; fetch the encoder again")
        return np.frombuffer(self._data, _BLOCK, elements // 32, where).reshape(-1, width // 32)

    def _entry(self, name: str) -> tuple[int, int, int]:
        if name not in self._directory:
            raise BaseWeightsError(f"{self.path}: there is no tensor {name}; fetch the encoder again")
        return self._directory[name]


def dequantised(rows: NDArray[Any]) -> Floats:
    """(n, blocks) of Q4_0 to (n, 32 · blocks) of float32."""
    return _values(rows.reshape(-1)).reshape(rows.shape[0], -1)


def _values(blocks: NDArray[Any]) -> Floats:
    codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], 1).astype(np.float32) - 8
    values: Floats = codes * blocks["scale"].astype(np.float32)[:, None]
    return values
