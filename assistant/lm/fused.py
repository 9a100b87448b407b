"""What a training step does between its matrix products, each as one function with its own backward pass.

`transformer.py` says what is computed; autograd would remember every small step of it and walk back through all of them. Here only what the
gradient needs is kept, and it is written where it belongs: no slices that are filled with zeros first, no halves that are joined. The same
numbers up to rounding. For float32 on the CPU; other devices and `torch.compile` fuse the written-out form themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHORT = 128
"""Up to this many positions all attention weights are kept for the way back; longer contexts compute them again, some at a time."""


def suits(x: Tensor) -> bool:
    """Whether these functions are for `x`: a float32 step on the CPU that asks for gradients, neither compiled nor under autocast."""
    return (
        torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype is torch.float32 and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )  # fmt: skip


class _RmsNorm(torch.autograd.Function):
    """With r = 1/√(mean(x²) + ε) and t = g ⊙ x: dx = g ⊙ w · r − x · (t·w) r³/D, dw = Σ t · r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = x.shape[-1]
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return torch.mul(x, r).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, r = ctx.saved_tensors
        g, size = outer[0], x.shape[-1]
        t = torch.mul(g, x).view(-1, size)
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            share = torch.mv(t, weight).view_as(r).mul_(r).mul_(r).mul_(r).div_(size)
            to_x = torch.mul(g, weight).mul_(r).addcmul_(x, share, value=-1)
        if ctx.needs_input_grad[1]:
            to_weight = torch.mv(t.t(), r.reshape(-1))
        return to_x, to_weight, None


class _Turned(torch.autograd.Function):
    """Joined projections (B, L, H + 2K, d) to q, k turned by their angles and v as they are, each (B, heads, L, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_sin: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, total, d = x.shape
        kv = (total - heads) // 2
        turn = torch.view_as_complex(cos_sin)  # (1 or B, 1, L, d/2)
        ctx.save_for_backward(turn)
        ctx.sizes = heads, kv
        q, k = x.new_empty(batch, heads, length, d), x.new_empty(batch, kv, length, d)
        torch.mul(_pairs(x[:, :, :heads].transpose(1, 2)), turn, out=_pairs(q))
        torch.mul(_pairs(x[:, :, heads:-kv].transpose(1, 2)), turn, out=_pairs(k))
        return q, k, x[:, :, -kv:].transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (turn,), (heads, kv) = ctx.saved_tensors, ctx.sizes
        q, k, v = outer
        back = turn.conj().resolve_conj()
        to_x = q.new_empty(q.shape[0], q.shape[2], heads + 2 * kv, q.shape[3])
        torch.mul(_pairs(q.contiguous()), back, out=_pairs(to_x[:, :, :heads].transpose(1, 2)))
        torch.mul(_pairs(k.contiguous()), back, out=_pairs(to_x[:, :, heads:-kv].transpose(1, 2)))
        to_x[:, :, -kv:].transpose(1, 2).copy_(v)
        return to_x, None, None


def _pairs(x: Tensor) -> Tensor:
    """(…, d) real to (…, d/2) complex, the same memory."""
    return torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))


class _Attention(torch.autograd.Function):
    """softmax(Q Kᵀ / √d) V with a causal mask for q, k, v (N, L, d) of one shape; keeps the weights P (N, L, L)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length, d = q.shape[1:]
        ahead = q.new_full((length, length), -torch.inf).triu_(1)
        p = torch.baddbmm(ahead.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=d**-0.5)
        torch.softmax(p, -1, out=p)
        ctx.save_for_backward(q, k, v, p)
        return torch.bmm(p, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, p = ctx.saved_tensors
        g = outer[0]
        s = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), p, -1, torch.float32).mul_(q.shape[2] ** -0.5)
        return torch.bmm(s, k), torch.bmm(s.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), g)


class _SwiGlu(torch.autograd.Function):
    """silu(gate) ⊙ up of features (…, 2F); both gradients are written into one tensor."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        gate, up = features.chunk(2, -1)
        active = torch.nn.functional.silu(gate)
        ctx.save_for_backward(features, active)
        made: Tensor = active * up
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        features, active = ctx.saved_tensors
        gate, up = features.chunk(2, -1)
        out = torch.empty_like(features)
        to_gate, to_up = out.chunk(2, -1)
        torch.mul(outer[0], active, out=to_up)
        torch.ops.aten.silu_backward.grad_input(outer[0] * up, gate, grad_input=to_gate)
        return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`transformer.rms_norm`."""
    y: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def turned(x: Tensor, cos_sin: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, L, H + 2K, d) to the turned q and k and to v, each (B, heads, L, d): `transformer.rotate`. cos_sin (1 or B, 1, L, d/2, 2)."""
    q, k, v = _Turned.apply(x, cos_sin, heads)  # type: ignore[no-untyped-call]
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`transformer.attend` without a mask, for as many keys as queries and as many heads: (B, H, L, d) to (B, H, L, d)."""
    y: Tensor = _Attention.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))  # type: ignore[no-untyped-call]
    return y.view_as(q)


def swiglu(features: Tensor) -> Tensor:
    """silu(gate) ⊙ up, features (…, 2F) to (…, F)."""
    y: Tensor = _SwiGlu.apply(features)  # type: ignore[no-untyped-call]
    return y
