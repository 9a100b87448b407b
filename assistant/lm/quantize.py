"""From quantised GGUF blocks to tensors: dense, or re-packed for torch's int4 kernels without another rounding.

A quantised row is cut into blocks of 32 weights that share a scale d (and, in Q4_1, a minimum m):

    Q4_0:  w = d · (q − 8)        q in 0…15
    Q4_1:  w = d · q + m          q in 0…15
    Q8_0:  w = d · q              q in −128…127
    Q4_K:  w = d · s · q − e · m  q in 0…15; s and m of 6 bits for each 32, d and e for each 256

torch's int4 kernel computes w = scale · (q − 8) + zero with blocks of 32 as well, so that all codes of Q4_0, Q4_1 and Q4_K map onto it
exactly: scale = d and zero = 0, zero = m + 8·d, or scale = d·s and zero = 8·d·s − e·m. Only scale and zero are rounded, to the kernel's
bfloat16. Q4_K files keep some matrices in 5, 6 or 8 bits, which the kernel has not: those stay dense.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

from assistant.lm.gguf import GGUFError, TensorInfo
from assistant.lm.source import Codes

BLOCK = 32
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def dequantise(info: TensorInfo, raw: Bytes) -> Tensor:
    """The tensor as float32, in its torch shape. Raises GGUFError when a weight is not a finite number."""
    if info.type is Type.Q4_1 or info.type is Type.Q4_0:
        q, d, m = _nibbles(info, raw)
        offset = -8.0 * d if m is None else m
        dense = torch.addcmul(offset.unsqueeze(-1), q.float(), d.unsqueeze(-1))
    elif info.type is Type.Q8_0:
        blocks = torch.from_numpy(raw.copy()).view(-1, 34)
        d = blocks[:, :2].contiguous().view(torch.float16).float()
        dense = blocks[:, 2:].contiguous().view(torch.int8).float().mul_(d)
    elif info.type is Type.F32:
        dense = torch.from_numpy(raw.copy()).view(torch.float32)
    elif info.type is Type.F16:
        dense = torch.from_numpy(raw.copy()).view(torch.float16).float()
    elif info.type is Type.BF16:
        dense = torch.from_numpy(raw.copy()).view(torch.bfloat16).float()
    else:
        try:
            dense = torch.from_numpy(np.ascontiguousarray(quants.dequantize(raw, info.type), np.float32))
        except NotImplementedError:
            raise GGUFError(
                f"tensor {info.name} is of type {info.type.name}, which cannot be read: use another quantisation of this model"
            ) from None
    dense = dense.reshape(info.shape)
    if not torch.isfinite(dense.sum()):
        raise GGUFError(f"tensor {info.name} holds NaN or infinite weights: fetch the model again")
    return dense


@dataclass(frozen=True, slots=True)
class Int4:
    """One matrix (out, in) packed for torch's int4 kernel of its device: bytes (out, in / 2) in an order that depends on the CPU, or on
    CUDA tiles (out / 8, in / (16 · t), 32, t / 2) of int32, t from `tiles`. Never move it to another device."""

    packed: Tensor
    scale_and_zero: Tensor  # (in / 32, out, 2) bfloat16


def can_pack(info: TensorInfo) -> bool:
    """Whether the matrix maps onto the int4 kernel without loss."""
    return info.type in (Type.Q4_0, Type.Q4_1, Type.Q4_K) and len(info.shape) == 2 and info.shape[0] % 16 == 0


def codes(info: TensorInfo, raw: Bytes) -> Codes:
    """The 4-bit codes of a matrix that `can_pack`."""
    n, k = info.shape
    if info.type is Type.Q4_K:
        q, scale, minimum = _super_blocks(raw)
        scale = scale.view(n, k // BLOCK)
        return Codes(q.view(n, k), scale, 8.0 * scale - minimum.view(n, k // BLOCK))
    q, d, m = _nibbles(info, raw)
    d = d.view(n, k // BLOCK)
    return Codes(q.view(n, k), d, torch.zeros_like(d) if m is None else m.view(n, k // BLOCK) + 8.0 * d)


def pack_int4(parts: list[Codes], row_order: list[Tensor | None], device: torch.device | str = "cpu") -> Int4:
    """Pack matrices stacked along their rows (fused projections) for a device; `row_order[i]` permutes the rows of part i."""
    rows, scales = [], []
    for part, order in zip(parts, row_order, strict=True):
        q, scale_and_zero = part.q, torch.stack([part.scale, part.zero], -1)
        rows.append(q if order is None else q[order])
        scales.append(scale_and_zero if order is None else scale_and_zero[order])
    q, scales_and_zeros = torch.cat(rows), torch.cat(scales).transpose(0, 1).contiguous().bfloat16()
    if torch.device(device).type == "cpu":
        return Int4(torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1), scales_and_zeros)
    return Int4(torch.ops.aten._convert_weight_to_int4pack(paired(q).to(device), tiles(q.shape[1])), scales_and_zeros.to(device))


def paired(q: Tensor) -> Tensor:
    """(out, in) codes → (out, in / 2) bytes as CUDA's packing wants them: the first of two neighbours in the high half."""
    return q[:, ::2] << 4 | q[:, 1::2]


def tiles(columns: int) -> int:
    """How many tiles of 16 columns CUDA's kernel takes at a time: 8, 4 or 2, as `columns` divide."""
    return next(t for t in (8, 4, 2) if columns % (16 * t) == 0)


def _nibbles(info: TensorInfo, raw: Bytes) -> tuple[Tensor, Tensor, Tensor | None]:
    """(blocks, 32) uint8 codes, (blocks,) float32 scales, and minima for Q4_1. Byte j holds weights j (low) and j + 16 (high)."""
    header = 4 if info.type is Type.Q4_1 else 2
    blocks = torch.from_numpy(raw.copy()).view(-1, header + 16)
    scales = blocks[:, :header].contiguous().view(torch.float16).float()
    codes = blocks[:, header:]
    q = torch.empty(len(codes), 32, dtype=torch.uint8)
    torch.bitwise_and(codes, 15, out=q[:, :16])
    torch.bitwise_right_shift(codes, 4, out=q[:, 16:])
    return q, scales[:, 0], scales[:, 1] if header == 4 else None


def _super_blocks(raw: Bytes) -> tuple[Tensor, Tensor, Tensor]:
    """Q4_K: (blocks, 256) uint8 codes, (blocks, 8) float32 scales and minima.

    144 bytes: d, e as float16, 12 bytes of 6-bit scales and minima, 128 bytes of codes (32 of one part in the low halves, 32 of the next
    in the high ones).
    """
    blocks = torch.from_numpy(raw.copy()).view(-1, 144)
    d = blocks[:, :4].contiguous().view(torch.float16).float()  # (blocks, 2)
    packed = blocks[:, 4:16]
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([low & 63, (high & 15) | (low >> 6 << 4)], 1)
    minima = torch.cat([middle & 63, (high >> 4) | (middle >> 6 << 4)], 1)
    codes = blocks[:, 16:].view(-1, 4, 1, 32)
    q = torch.cat([codes & 15, codes >> 4], 2)  # (blocks, 4, 2, 32)
    return q.reshape(-1, 256), d[:, :1] * scales.float(), d[:, 1:] * minima.float()
