"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): a change of a matrix that is a product of two thin ones.

    y = W x + (α / r) · B A x        A (r, in) begins as noise, B (out, r) as zeros: at first nothing is changed

W stays as it is, so r · (in + out) numbers are trained instead of in · out, and what was learnt is a small file that belongs to exactly one
base model: adapters carry the base's SHA-256 and are refused for any other. For use they are added to the weights and cost nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.errors import ModelError, UsageError
from assistant.lm import safetensors
from assistant.lm.transformer import Transformer

TARGETS = ("qkv", "out", "gate_up", "down")
"""The matrices of a block that can be adapted: attention's inputs and output, the feed-forward network's inputs and output."""
DESCRIPTION, WEIGHTS = "adapter.json", "adapter.safetensors"


class LowRank(nn.Module):
    """A linear layer with an adapter. `weight` and `bias` are the base's own."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        out, wide = base.weight.shape
        self.scale = alpha / rank
        noise = torch.randn(rank, wide, generator=generator) / math.sqrt(wide)
        self.a = nn.Parameter(noise.to(base.weight.device))
        self.b = nn.Parameter(torch.zeros(out, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        y = F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)
        return y + F.linear(F.linear(x, self.a) * self.scale, self.b)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter."""

    name: str
    base: str
    """The base's name in the catalogue, or its path."""
    base_sha256: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    chat_format: str
    """The format its conversations were written in."""
    sha256: str
    tensors: dict[str, Tensor]
    """`blocks.N.TARGET.a` and `.b`."""


def prepare(model: Transformer, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Give the matrices called `targets` of every block an adapter, and freeze everything else. Raises UsageError."""
    if rank < 1 or not math.isfinite(alpha) or alpha <= 0:
        raise UsageError("the rank of an adapter must be at least 1, and alpha above 0")
    if not targets or (unknown := [t for t in targets if t not in TARGETS]):
        raise UsageError(f"an adapter cannot change {unknown[0] if targets else 'nothing'}: choose from {', '.join(TARGETS)}")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for block in model.blocks:
        for name in targets:
            setattr(block, name, LowRank(getattr(block, name), rank, alpha, generator))


def undo(model: Transformer) -> None:
    """Take the adapters away again: every matrix is as it was (or as `merge` left it)."""
    for block in model.blocks:
        for name in TARGETS:
            layer = getattr(block, name)
            if isinstance(layer, LowRank):
                plain = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None, device="meta")
                plain.weight, plain.bias = layer.weight, layer.bias
                setattr(block, name, plain)


def save(folder: Path, adapter: Adapter, *, half: bool = False) -> None:
    """Write an adapter; `half`: its numbers as float16, which is half the file (they are small, and their product is added to larger ones).

    Raises ModelError when the folder cannot be written, or when half precision has no room for a number.
    """
    tensors = {name: t.detach().to(torch.float16) if half else t for name, t in adapter.tensors.items()}
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise ModelError(f"the adapter {adapter.name} holds numbers that are too large: train it again with a lower --rate")
    described = {name: getattr(adapter, name) for name in ("base", "base_sha256", "rank", "alpha", "targets", "chat_format")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.write(folder / WEIGHTS, tensors)
        (folder / DESCRIPTION).write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise ModelError(f"cannot write the adapter into {folder} ({error.strerror}): make room and try again") from error


def read(folder: Path) -> Adapter:
    """Read an adapter. Raises ModelError for one that is damaged."""
    from assistant.lm.hashing import sha256_of_files

    try:
        d = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        file = safetensors.SafetensorsFile(folder / WEIGHTS)
        tensors = {name: file.tensor(name) for name in file.entries}
        return Adapter(
            folder.resolve().name, str(d["base"]), str(d["base_sha256"]), int(d["rank"]), float(d["alpha"]), tuple(d["targets"]),
            str(d.get("chat_format", "")), sha256_of_files(folder, [WEIGHTS, DESCRIPTION]), tensors,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no whole adapter ({error}): train it again") from error


def merge(model: Transformer, adapter: Adapter) -> None:
    """W + (α / r) · B A in all blocks, in place. Raises ModelError for an adapter of other shapes."""
    for i, block in enumerate(model.blocks):
        merge_block(block, i, adapter)


@torch.no_grad()
def merge_block(block: nn.Module, number: int, adapter: Adapter) -> None:
    """W + (α / r) · B A in one block with dense weights, in place. Raises ModelError for an adapter of other shapes."""
    for name in adapter.targets:
        weight = cast(nn.Linear, getattr(block, name)).weight
        a, b = (adapter.tensors.get(f"blocks.{number}.{name}.{part}") for part in "ab")
        if a is None or b is None or (b.shape[0], a.shape[1]) != weight.shape or a.shape[0] != b.shape[1]:
            raise ModelError(f"the adapter {adapter.name} does not fit this model: it was trained on another one")
        weight.add_((b.float() @ a.float() * (adapter.alpha / adapter.rank)).to(weight.device, weight.dtype))


def identity(base_sha256: str, adapters: Sequence[Adapter]) -> str:
    """The SHA-256 that names a base with adapters, one after another: another model than its base.

    Raises ModelError when an adapter was not trained on what it is added to.
    """
    found = base_sha256
    for adapter in adapters:
        if found != adapter.base_sha256:
            raise ModelError(
                f"the adapter {adapter.name} belongs to another base model (SHA-256 {adapter.base_sha256[:16]}…, this one is "
                f"{found[:16]}…): load it with the base it was trained on"
            )
        found = hashlib.sha256(f"{found} {adapter.sha256}".encode()).hexdigest()
    return found
