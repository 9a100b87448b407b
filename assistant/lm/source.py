"""What a stored model must offer, whatever it is stored as. A GGUF file (`gguf_source.py`) and a directory (`directory.py`) do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from assistant.errors import ModelError
from assistant.lm.config import Config
from assistant.lm.tokenizer import ByteTokenizer

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix (n, k) as it was quantised: w = scale · (q − 8) + zero, in blocks of 32 along a row."""

    q: Tensor  # (n, k) uint8, 0 … 15
    scale: Tensor  # (n, k / 32) float32
    zero: Tensor  # (n, k / 32) float32


class Source(Protocol):
    """A stored model. Tensors go by the names of `layout.py`. Everything raises ModelError, with one sentence, for what is wrong."""

    path: Path
    template: str | None
    """The chat template it carries, which is never executed."""
    chat_format: str
    """The name of one of our chat formats, where the file says so."""
    languages: tuple[str, ...]
    paired: bool
    """Whether rotary partners stand side by side already."""

    def config(self) -> Config:
        """The numbers that define the model."""
        ...

    def tokenizer(self) -> ByteTokenizer:
        """Text to ids and back."""
        ...

    def begin(self) -> tuple[int, ...]:
        """The ids that every text begins with."""
        ...

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A float32 copy of a tensor, which must have this shape and hold finite numbers only."""
        ...

    def can_pack(self, name: str) -> bool:
        """Whether `codes(name)` exist: the matrix is stored in 4-bit blocks that the int4 kernel takes without another rounding."""
        ...

    def codes(self, name: str) -> Codes:
        """The 4-bit codes of a matrix that `can_pack`."""
        ...

    def weights(self) -> int:
        """How many numbers it holds."""
        ...

    def sha256(self) -> str:
        """Its identity in the ledger."""
        ...

    def facts(self) -> dict[str, Any]:
        """What it says about itself, for people."""
        ...


def open_source(path: Path) -> Source:
    """The model at `path`: a .gguf file or a directory. Raises ModelError for anything else; a pickle is never opened."""
    if path.is_dir():
        from assistant.lm.directory import Directory

        return Directory(path)
    if path.suffix in PICKLES:
        raise ModelError(f"{path.name} is a pickle, which can run code when it is opened: save it as safetensors and give that folder")
    if path.suffix == ".safetensors":
        raise ModelError(f"{path.name} holds weights only: give the folder that also has config.json and tokenizer.json")
    from assistant.lm.gguf_source import GGUFSource

    return GGUFSource(path)


def finite(name: str, tensor: Tensor) -> Tensor:
    """`tensor`, when it holds finite numbers only. Raises ModelError otherwise."""
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise ModelError(f"tensor {name} holds NaN or infinite weights: fetch the model again")
    return tensor
