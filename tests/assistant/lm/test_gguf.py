"""GGUF files are hostile input: everything that is wrong is refused with a sentence, nothing is allocated first."""

import struct

import numpy as np
import pytest

from assistant.lm import gguf
from assistant.lm.gguf import GGUFError, GGUFFile

MAGIC = b"GGUF"


def header(version=3, tensors=0, entries=0):
    return MAGIC + struct.pack("<IQQ", version, tensors, entries)


def string(data: bytes):
    return struct.pack("<Q", len(data)) + data


def array(name, element, length, data=b""):
    return string(name) + struct.pack("<IIQ", 9, element, length) + data


def text(name, value):
    return string(name) + struct.pack("<I", 8) + string(value)


def tensor(name, dims, kind, offset):
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


PAD = b"\0" * 256
HOSTILE = {
    "empty": b"",
    "magic only": MAGIC,
    "bad magic": b"GGML" + b"\0" * 20,
    "version 0": header(0),
    "version 1": header(1),
    "version 99": header(99),
    "big-endian": MAGIC + struct.pack(">IQQ", 3, 0, 0),
    "2^63 entries": header(3, 0, 1 << 63),
    "2^63 tensors": header(3, 1 << 63, 0),
    "2^32 entries, truncated": header(3, 0, 1 << 32),
    "key length 2^63": header(3, 0, 1) + struct.pack("<Q", 1 << 63) + b"abc",
    "string length 2^40": header(3, 0, 1) + string(b"k") + struct.pack("<IQ", 8, 1 << 40) + b"x",
    "u8 array of 2^63": header(3, 0, 1) + array(b"k", 0, 1 << 63),
    "string array of 2^63": header(3, 0, 1) + array(b"k", 8, 1 << 63),
    "string array of 10^6, truncated": header(3, 0, 1) + array(b"k", 8, 1_000_000),
    "array of arrays": header(3, 0, 1) + array(b"k", 9, 1 << 62),
    "nested 2000 deep": header(3, 0, 1) + string(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000 + struct.pack("<IQ", 0, 0),
    "unknown value type": header(3, 0, 1) + string(b"k") + struct.pack("<I", 77),
    "key twice": header(3, 0, 2) + text(b"k", b"a") + text(b"k", b"b"),
    "key not UTF-8": header(3, 0, 1) + text(b"\xff\xfe", b"a"),
    "value not UTF-8": header(3, 0, 1) + text(b"k", b"\xff\xfe"),
    "alignment 0": header(3, 0, 1) + string(b"general.alignment") + struct.pack("<II", 4, 0),
    "alignment 2^31": header(3, 0, 1) + string(b"general.alignment") + struct.pack("<II", 4, 1 << 31),
    "alignment 48": header(3, 0, 1) + string(b"general.alignment") + struct.pack("<II", 4, 48),
    "alignment as text": header(3, 0, 1) + text(b"general.alignment", b"32"),
    "10^6 dimensions": header(3, 1, 0) + string(b"t") + struct.pack("<I", 1_000_000),
    "2^32-1 dimensions": header(3, 1, 0) + string(b"t") + struct.pack("<I", 0xFFFFFFFF),
    "no dimensions": header(3, 1, 0) + tensor(b"t", [], 0, 0) + PAD,
    "overflowing dimensions": header(3, 1, 0) + tensor(b"t", [4194305, 4194305, 211106198978564], 0, 0) + PAD,
    "zero dimensions": header(3, 1, 0) + tensor(b"t", [0, 0], 0, 0) + PAD,
    "2^60 elements": header(3, 1, 0) + tensor(b"t", [1 << 60], 0, 0) + PAD,
    "offset beyond the file": header(3, 1, 0) + tensor(b"t", [4], 0, 1 << 40) + PAD,
    "offset not aligned": header(3, 1, 0) + tensor(b"t", [4], 0, 3) + PAD,
    "unknown tensor type": header(3, 1, 0) + tensor(b"t", [32], 999, 0) + PAD,
    "half a block": header(3, 1, 0) + tensor(b"t", [31], 3, 0) + PAD,
    "tensor twice": header(3, 2, 0) + tensor(b"t", [4], 0, 0) + tensor(b"t", [4], 0, 64) + PAD,
    "overlapping tensors": header(3, 2, 0) + tensor(b"a", [16], 0, 0) + tensor(b"b", [16], 0, 0) + PAD,
    "path as a name": header(3, 1, 0) + tensor(b"../../../x", [8], 0, 0) + PAD,
    "escape in a name": header(3, 1, 0) + tensor(b"\x1b]52;c;eA==\x07", [8], 0, 0) + PAD,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(GGUFError) as caught:
        GGUFFile(path)
    assert "model.gguf" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_written_file_reads_back(tmp_path):
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    metadata = {"a": "天气", "b": 7, "c": 0.5, "d": True, "e": ["x", "y"], "f": [1, -2], "g": [0.5]}
    gguf.write(tmp_path / "m.gguf", metadata, {"w": weights})
    file = GGUFFile(tmp_path / "m.gguf")
    assert file.metadata == metadata
    assert file.tensors["w"].shape == (3, 4)
    assert np.array_equal(file.raw("w").view(np.float32).reshape(3, 4), weights)


@pytest.mark.parametrize("cut", [10, 100, 1000, -1])
def test_a_truncated_file_is_refused(tiny_model, tmp_path, cut):
    data = tiny_model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[:cut])
    with pytest.raises(GGUFError):
        GGUFFile(path)


def test_a_missing_file_and_a_missing_tensor_say_so(tmp_path, tiny_model):
    with pytest.raises(GGUFError, match="cannot open"):
        GGUFFile(tmp_path / "none.gguf")
    with pytest.raises(GGUFError, match="no tensor 'x'"):
        GGUFFile(tiny_model).raw("x")
    with pytest.raises(GGUFError, match="missing or not of type int"):
        GGUFFile(tiny_model).get("general.name", int)


def test_random_bytes_after_a_valid_header_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "fuzz.gguf"
    for _ in range(300):
        data = bytearray(header(3, int(rng.integers(0, 4)), int(rng.integers(0, 4))) + rng.bytes(int(rng.integers(0, 200))))
        path.write_bytes(data)
        try:
            GGUFFile(path)
        except GGUFError as error:
            assert str(error)
