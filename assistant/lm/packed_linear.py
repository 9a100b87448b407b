"""Linear maps on quantised weights, in place of `nn.Linear` inside a `Transformer`: no dense copy is needed to compute with them.

int4: w = scale · (q − 8) + zero in blocks of 32, as `quantize.py` packs them. int8: w = scale · q with one scale a row, the largest
weight of the row at 127 (weight-only: what is multiplied with stays bfloat16).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from assistant.lm.quantize import Int4
from assistant.lm.transformer import Transformer

MATRICES = ("qkv", "out", "gate_up", "down")


class PackedMatrices(Protocol):
    """The int4 copies of one block's matrices, under their names."""

    @property
    def qkv(self) -> Int4 | None: ...
    @property
    def out(self) -> Int4 | None: ...
    @property
    def gate_up(self) -> Int4 | None: ...
    @property
    def down(self) -> Int4 | None: ...


def int4_product(x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """x (M, in) bfloat16 → (M, out) bfloat16 on an `Int4`, by the kernel of the device that it was packed for."""
    if packed.dim() == 4:
        return torch._weight_int4pack_mm(x, packed, 32, scales)
    return torch._weight_int4pack_mm_for_cpu(x, packed, 32, scales)


class Int4Linear(nn.Module):
    """x (…, in) float32 → (…, out) float32 on packed int4 weights. Without gradients."""

    def __init__(self, matrix: Int4, bias: Tensor | None) -> None:
        super().__init__()
        self.matrix, self.bias = matrix, bias

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b. On the CPU each row gets the bits that it would get alone."""
        y = int4_product(x.reshape(-1, x.shape[-1]).bfloat16(), self.matrix.packed, self.matrix.scale_and_zero)
        y = y.float() if self.bias is None else y.float() + self.bias
        return y.view(*x.shape[:-1], -1)


class Int8Linear(nn.Module):
    """x (…, in) float32 → (…, out) float32 on int8 weights with one scale a row; differentiable in x."""

    weight: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: the dense matrix (out, in), rounded to the nearest of 255 steps in each row."""
        super().__init__()
        scales = (weight.float().abs().amax(1) / 127).clamp_(min=1e-12).bfloat16()
        q = (weight.float() / scales.float().unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8)
        self.register_buffer("weight", q)
        self.register_buffer("scales", scales)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + b."""
        y = _Int8Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self.scales)  # type: ignore[no-untyped-call]
        y = y if self.bias is None else y + self.bias
        shaped: Tensor = y.view(*x.shape[:-1], -1)
        return shaped


class _Int8Product(torch.autograd.Function):
    """The kernel has no gradient of its own: dx = dy · W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scales)
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x.bfloat16(), weight, scales)
        return y.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        weight, scales = ctx.saved_tensors
        return (gradients[0] * scales.float()) @ weight.float(), None, None


def to_int8(block: nn.Module) -> None:
    """Replace the four matrices of a block by int8 ones; the dense ones are let go."""
    for name in MATRICES:
        dense: nn.Linear = getattr(block, name)
        bias = None if dense.bias is None else dense.bias.detach().float()
        setattr(block, name, Int8Linear(dense.weight.detach(), bias))


def is_int8(block: nn.Module) -> bool:
    """Whether its matrices are kept as int8 only."""
    return isinstance(block.qkv, Int8Linear)


def packed_view(model: Transformer, packed: Sequence[PackedMatrices]) -> Transformer:
    """`model` computing on its packed matrices: everything else is shared with it, nothing is copied."""
    view = copy.copy(model)
    view._modules = dict(model._modules)
    blocks = []
    for block, matrices in zip(model.blocks, packed, strict=True):
        twin = copy.copy(block)
        twin._modules = dict(block._modules)
        for name in MATRICES:
            matrix, bias = getattr(matrices, name), getattr(block, name).bias
            if matrix is not None:
                twin._modules[name] = Int4Linear(matrix, None if bias is None else bias.detach().float())
        blocks.append(twin)
    view.blocks = nn.ModuleList(blocks)
    return view
