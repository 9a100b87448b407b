"""An encoder so small that tests can make it: the same file layout, two layers, random weights."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from safety.base_weights import BaseWeights
from safety.encoder import Trunk, initial, tokenizer
from safety.reader import OUTPUTS, Reader, measure_inputs, write_weights

WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 2
WORDS = ("▁how", "▁do", "▁i", "▁build", "▁a", "▁bomb", "▁kill", "▁process", "▁the", "怎", "么", "制", "造", "炸", "弹", "进", "程", "▁")
PIECES = ("<s>", "<pad>", "</s>", "<unk>", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789.,?!")
TEXTS = ("how do i build a bomb", "怎么制造炸弹", "kill the process", "the weather is fine today, isn't it?")


def write_base(path: Path, layers: int = LAYERS) -> Path:
    """An `E5S1` file with random weights; the embedding in Q4_0, the rest in float32."""
    rng = np.random.default_rng(0)
    tensors: dict[str, tuple[int, int, bytes]] = {}

    def plain(name: str, *shape: int, scale: float = 0.3, base: float = 0.0) -> None:
        values = (rng.standard_normal(shape) * scale + base).astype("<f4")
        tensors[name] = (0, values.size, values.tobytes())

    blocks = np.zeros(len(PIECES) * WIDTH // 32, np.dtype([("scale", "<f2"), ("codes", "u1", 16)]))
    blocks["scale"], blocks["codes"] = 0.1, rng.integers(0, 256, (len(blocks), 16))
    tensors["emb.word"] = (1, len(PIECES) * WIDTH, blocks.tobytes())
    plain("emb.pos", 512, WIDTH)
    plain("emb.type", 1, WIDTH)
    plain("emb.ln.w", WIDTH, scale=0.1, base=1.0)
    plain("emb.ln.b", WIDTH)
    for i in range(layers):
        for name in ("q", "k", "v", "ao", "fi", "fo"):
            out, into = (INNER if name == "fi" else WIDTH), (INNER if name == "fo" else WIDTH)
            plain(f"l{i}.{name}.w", out, into)
            plain(f"l{i}.{name}.b", out, scale=0.1)
        for name in ("aln", "oln"):
            plain(f"l{i}.{name}.w", WIDTH, scale=0.1, base=1.0)
            plain(f"l{i}.{name}.b", WIDTH, scale=0.1)
    pieces = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, pieces)]).astype("<u4")
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, layers, HEADS, INNER, len(PIECES), 512, 1, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(offsets[-1])) + offsets.tobytes()
    head += np.array([-1.0 if p.startswith("▁") else -3.0 for p in PIECES], "<f4").tobytes() + b"".join(pieces) + struct.pack("<iI", 0, 0)
    head += struct.pack("<i", len(tensors))
    size = len(head) + sum(2 + len(name.encode()) + 21 for name in tensors)
    directory, data, place = b"", b"", size
    for name, (kind, count, raw) in tensors.items():
        directory += struct.pack("<H", len(name.encode())) + name.encode() + struct.pack("<BIQQ", kind, count, place, len(raw))
        data += raw
        place += len(raw)
    path.write_bytes(head + directory + data)
    return path


def adapted(trunk: Trunk, seed: int = 1) -> dict[str, torch.Tensor]:
    """Changes that do change something."""
    generator = torch.Generator().manual_seed(seed)
    made = initial(trunk, len(OUTPUTS), 4, seed)
    return {n: v + 0.1 * torch.randn(v.shape, generator=generator) if n.endswith((".B", ".w")) else v for n, v in made.items()}


def make_reader(path: Path, *, eight: bool, early: Mapping[str, torch.Tensor] | None = None) -> Reader:
    """A reader of the tiny encoder, in eight bits or in float32, with the weights of a gate where they are given."""
    base = BaseWeights(path, None)
    trunk = Trunk(base, LAYERS)
    changes = adapted(trunk)
    inputs = measure_inputs(trunk, changes, tokenizer(base), TEXTS)
    return Reader(trunk, {**changes, **(early or {})}, tokenizer(base), inputs if eight else None)


def write_pair(folder: Path, **header: object) -> tuple[Path, Path]:
    """Trunk and weights as files; the weights name the trunk's checksum."""
    import hashlib

    path = write_base(folder / "tiny.e5s1")
    base = BaseWeights(path, None)
    trunk = Trunk(base, LAYERS)
    changes = adapted(trunk)
    inputs = measure_inputs(trunk, changes, tokenizer(base), TEXTS)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_weights(folder / "encoder.npz", changes, inputs, {"layers": LAYERS, "base": digest, **header})
    return path, folder / "encoder.npz"
