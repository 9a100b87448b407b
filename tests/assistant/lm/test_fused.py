"""The training step's own functions give the numbers and the gradients of the written-out form."""

import pytest
import torch
import torch.nn.functional as F

from assistant.lm import fused
from assistant.lm.config import Config
from assistant.lm.transformer import Block, attend, rotary_table, rotate

SIZES = {"vocab_size": 40, "width": 24, "n_layers": 1, "n_heads": 3, "n_kv_heads": 3, "ffn_width": 20, "context_length": 32}


def config(**changes):
    return Config(**(SIZES | changes))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def same(ours, written_out, *inputs):
    """Equal values, and equal gradients of a random sum of them."""
    mine, theirs = ours(*inputs), written_out(*inputs)
    mine, theirs = (x if isinstance(x, tuple) else (x,) for x in (mine, theirs))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    weights = [noise(*a.shape, seed=9 + i).detach() for i, a in enumerate(mine)]
    got = torch.autograd.grad(sum((a * w).sum() for a, w in zip(mine, weights, strict=True)), inputs)
    wanted = torch.autograd.grad(sum((a * w).sum() for a, w in zip(theirs, weights, strict=True)), inputs)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_norm():
    def written_out(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    same(lambda x, w: fused.rms_norm(x, w, 1e-5), written_out, noise(2, 5, 12), noise(12, seed=1))


@pytest.mark.parametrize("kv", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_turning(kv, rows):
    turn = rotary_table(config(n_kv_heads=kv), 6)[None].expand(rows, -1, -1, -1).unsqueeze(1)

    def written_out(x):
        x = x.transpose(1, 2)
        return rotate(x[:, :3], turn), rotate(x[:, 3:-kv], turn), x[:, -kv:]

    same(lambda x: fused.turned(x, turn.contiguous(), 3), written_out, noise(2, 6, 3 + 2 * kv, 8))


def test_attention():
    q, k, v = (noise(2, 3, 7, 8, seed=i) for i in range(3))
    same(fused.attend, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)
    mask = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(q, k, v, None), attend(q, k, v, mask), rtol=1e-5, atol=1e-6)


def test_the_gated_features():
    same(fused.swiglu, lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], noise(2, 5, 16))


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 1}, {"qk_norm": True, "post_norms": True, "activation": "gelu"}])
def test_a_block_learns_the_same_whether_it_trains_or_is_only_asked(changes):
    block = Block(c := config(**changes))
    for i, p in enumerate(block.parameters()):
        p.data += noise(*p.shape, seed=i).detach() / 10
    h, turn = noise(2, 6, 24), rotary_table(c, 6)[None, None]
    out = []
    for training in (True, False):
        block.train(training)
        y = block(h, turn, None, 0, None)
        out.append([y, *torch.autograd.grad(y.square().sum(), [h, *block.parameters()])])
    for a, b in zip(*out, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_second_derivative_is_refused_rather_than_wrong():
    x = noise(2, 8)
    (first,) = torch.autograd.grad(fused.swiglu(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
