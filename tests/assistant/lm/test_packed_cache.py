"""Packed weights come back from disk as they were, and nothing unsound is ever believed."""

import json
import os
import struct

import pytest
import torch

from assistant.lm.packed_cache import DTYPES, MAGIC, cached, read, write

TENSORS = {
    "a": torch.randint(0, 255, (7, 5), dtype=torch.uint8), "b": torch.randn(3, 2, 2).bfloat16(), "c": torch.randn(11),
    "d": torch.arange(4, dtype=torch.int32), "e": torch.tensor([[-3, 4]], dtype=torch.int8),
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "x" / "m.packed", "key", TENSORS)
    return tmp_path / "x" / "m.packed"


def test_what_was_written_is_read(file):
    found = read(file, "key")
    assert set(found) == set(TENSORS) and len(DTYPES) == len(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert oct(file.stat().st_mode)[-2:] == "00" and not list(file.parent.glob("*.part"))


def test_another_key_is_another_model(file):
    assert read(file, "other") is None


def test_every_damage_is_noticed(file):
    whole = file.read_bytes()
    for at in range(0, len(whole), 37):
        broken = bytearray(whole)
        broken[at] ^= 0x10
        file.write_bytes(broken)
        found = read(file, "key")
        assert found is None or all(torch.equal(found[n], t) for n, t in TENSORS.items())  # padding of the header changes nothing
    for length in (0, 1, 8, 15, 16, 40, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert read(file, "key") is None


def header_of(dtype, count):
    tensors = {"a": {"dtype": dtype, "shape": [count], "offset": 0}}
    return json.dumps({"key": "key", "bytes": 0, "crc32": 0, "tensors": tensors}).encode()


@pytest.mark.parametrize(
    "header", [b"not json", b"[]", b"[" * 5000, b"{}", header_of("int8", 9), header_of("complex64", 0), header_of("int8", -1)]
)
def test_hostile_headers(tmp_path, header):
    head = MAGIC + struct.pack("<Q", len(header)) + header
    (tmp_path / "m").write_bytes(head + bytes(-len(head) % 64))
    assert read(tmp_path / "m", "key") is None
    (tmp_path / "m").write_bytes(MAGIC + struct.pack("<Q", 2**63) + header)
    assert read(tmp_path / "m", "key") is None


def test_it_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return TENSORS

    for _ in range(3):
        assert torch.equal(cached(tmp_path, "ab" * 32, make)["c"], TENSORS["c"])
    assert len(made) == 1
    cached(tmp_path, "cd" * 32, make)
    cached(None, "ab" * 32, make)
    assert len(made) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    tmp_path.chmod(0o500)
    assert cached(tmp_path / "no", "ab" * 32, lambda: TENSORS) is TENSORS


def test_a_file_in_the_folders_place_costs_only_time(tmp_path):
    (tmp_path / "file").write_text("x")
    assert cached(tmp_path / "file" / "no", "ab" * 32, lambda: TENSORS) is TENSORS
