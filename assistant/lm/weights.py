"""Filling a `Transformer` from a stored model: fused projections, the order of rotary pairs, and the int4 copies for decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from assistant.lm.config import Config
from assistant.lm.layout import Part, block_parts, is_norm, model_parts, pairing
from assistant.lm.packed_cache import cached
from assistant.lm.packed_linear import MATRICES, to_int8
from assistant.lm.quantize import Int4, pack_int4
from assistant.lm.source import Source
from assistant.lm.transformer import Transformer


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """The int4 copies of one block's four matrices; None: stored in another form, so that it stays dense."""

    qkv: Int4 | None
    out: Int4 | None
    gate_up: Int4 | None
    down: Int4 | None


def load(
    source: Source,
    config: Config,
    dtype: torch.dtype,
    device: torch.device,
    *,
    pack: bool = False,
    int8: bool = False,
    change: Callable[[int, nn.Module], object] = lambda number, block: None,
    progress: Callable[[float], None] = lambda fraction: None,
    packed_folder: Path | None = None,
    sha256: str = "",
) -> tuple[Transformer, list[PackedBlock] | None]:
    """The dense model in `dtype` on `device`, and (with `pack`, on the CPU or CUDA) the int4 copies of its blocks, kept in
    `packed_folder`; what is not in the blocks then stays float32, for it decodes too.

    `int8`: the matrices of the blocks are rounded to int8 as they are read, and no dense copy of them is kept.
    `change` is called with every block's number and the block while it is dense.
    Raises ModelError for a missing tensor or a wrong shape. The norms and the rotary table stay float32.
    """
    with torch.device("meta"):
        model = Transformer(config)
    model.rotary = model.rotary_local = torch.empty(0, device=device)
    fill(model, model_parts(config), "", source, torch.float32 if pack else dtype, device)
    packed = _packed_blocks(source, config, packed_folder, sha256, device) if pack else None
    parts = block_parts(config)
    for i, block in enumerate(model.blocks):
        fill(block, parts, f"blk.{i}.", source, torch.float32 if int8 else dtype, device)
        change(i, block)
        if int8:
            to_int8(block)
        progress((i + 1) / config.n_layers)
    if config.tied:
        model.head = model.embedding
    return model.eval(), packed


def fill(
    module: nn.Module, parts: dict[str, tuple[Part, ...]], prefix: str, source: Source, dtype: torch.dtype, device: torch.device
) -> None:
    """Give `module` its parameters from the stored tensors whose names begin with `prefix`."""
    for name, stored in parts.items():
        rows = [_rows(source, prefix, part) for part in stored]
        owner, _, attribute = name.rpartition(".")
        value = (torch.cat(rows) if len(rows) > 1 else rows[0]).to(device, torch.float32 if is_norm(name) else dtype)
        setattr(module.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))


def _rows(source: Source, prefix: str, part: Part) -> Tensor:
    rows = source.tensor(prefix + part.name, part.shape)
    order = _order(source, part)
    return rows if order is None else rows[order]


def _order(source: Source, part: Part) -> Tensor | None:
    return None if source.paired or not part.heads else pairing(part, part.shape[0] // part.heads)


def packable(source: Source, config: Config) -> bool:
    """Whether most of the blocks' weights map onto the int4 kernel without another rounding of their codes."""
    packed = whole = 0
    for i in range(config.n_layers):
        for stored in _matrices(config).values():
            size = sum(math.prod(part.shape) for part in stored)
            whole += size
            packed += size * _can_pack(source, i, stored)
    return 2 * packed > whole


def _matrices(config: Config) -> dict[str, tuple[Part, ...]]:
    parts = block_parts(config)
    return {name: parts[f"{name}.weight"] for name in MATRICES}


def _can_pack(source: Source, layer: int, stored: tuple[Part, ...]) -> bool:
    return all(source.can_pack(f"blk.{layer}.{part.name}") for part in stored)


def _packed_blocks(source: Source, config: Config, folder: Path | None, sha256: str, device: torch.device) -> list[PackedBlock]:
    def make() -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for i in range(config.n_layers):
            for name, stored in _matrices(config).items():
                if not _can_pack(source, i, stored):
                    continue
                parts = [source.codes(f"blk.{i}.{part.name}") for part in stored]
                matrix = pack_int4(parts, [_order(source, part) for part in stored], device)
                tensors |= {f"{i}.{name}.packed": matrix.packed, f"{i}.{name}.scales": matrix.scale_and_zero}
        return tensors

    found = cached(folder, sha256, make)

    def matrix(prefix: str) -> Int4 | None:
        return Int4(found[f"{prefix}.packed"], found[f"{prefix}.scales"]) if f"{prefix}.packed" in found else None

    return [PackedBlock(*(matrix(f"{i}.{name}") for name in MATRICES)) for i in range(config.n_layers)]
