"""Blocks become numbers by the formulas of the format; the int4 kernel computes the same product."""

import numpy as np
import pytest
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from torch._subclasses import FakeTensorMode

from assistant.lm.gguf import GGUFError, TensorInfo
from assistant.lm.head import rounded
from assistant.lm.packed_linear import int4_product
from assistant.lm.quantize import BLOCK, can_pack, codes, dequantise, pack_int4, paired, tiles


def blocks(kind, rows, columns, seed=0):
    """Quantised random weights as (info, bytes)."""
    size, width = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows * columns // size, width), dtype=np.uint8)
    raw[:, :2] = np.frombuffer(rng.normal(0, 0.02, len(raw)).astype(np.float16).tobytes(), np.uint8).reshape(-1, 2)
    if kind is Type.Q4_1:
        raw[:, 2:4] = np.frombuffer(rng.normal(0, 0.1, len(raw)).astype(np.float16).tobytes(), np.uint8).reshape(-1, 2)
    return TensorInfo("w", (rows, columns), kind, 0, raw.size), raw.reshape(-1)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_our_dequantisation_equals_the_reference(kind):
    info, raw = blocks(kind, 16, 64)
    reference = quants.dequantize(raw, kind).reshape(16, 64)
    assert np.allclose(dequantise(info, raw).numpy(), reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q6_K, Type.F32, Type.F16, Type.BF16])
def test_every_other_type_is_read_in_its_shape(kind):
    size = max(GGML_QUANT_SIZES[kind][0], 32)
    values = np.random.default_rng(0).normal(0, 1, (4, size)).astype(np.float32)
    try:
        raw = quants.quantize(values, kind).view(np.uint8).reshape(-1)
    except NotImplementedError:
        raw = np.zeros(4 * GGML_QUANT_SIZES[kind][1] * size // GGML_QUANT_SIZES[kind][0], np.uint8)
        values = np.zeros_like(values)
    dense = dequantise(TensorInfo("w", (4, size), kind, 0, raw.size), raw)
    assert dense.shape == (4, size)
    assert np.allclose(dense.numpy(), values, atol=0.25)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q4_K])
def test_the_codes_are_the_weights(kind):
    info, raw = blocks(kind, 16, 512)
    if kind is Type.Q4_K:  # its second scale is no minimum
        raw = raw.reshape(-1, 144)
        raw[:, 2:4] = np.frombuffer(np.full(len(raw), 0.01, np.float16).tobytes(), np.uint8).reshape(-1, 2)
        raw = raw.reshape(-1)
    found = codes(info, raw)
    assert found.q.max() <= 15
    dense = found.scale.unsqueeze(-1) * (found.q.view(16, 16, 32).float() - 8) + found.zero.unsqueeze(-1)
    assert np.allclose(dense.view(16, 512).numpy(), quants.dequantize(raw, kind).reshape(16, 512), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1])
def test_the_packed_product_equals_the_dense_one(kind):
    info, raw = blocks(kind, 32, 64)
    assert can_pack(info)
    order = torch.randperm(32)
    packed = pack_int4([codes(info, raw), codes(info, raw)], [None, order])
    x = torch.randn(3, 64).bfloat16()
    dense = dequantise(info, raw)
    expected = x.float() @ torch.cat([dense, dense[order]]).T
    got = int4_product(x, packed.packed, packed.scale_and_zero).float()
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("columns", [64, 576, 1536])
def test_a_matrix_is_laid_out_for_the_kernel_of_a_cuda_device(columns):
    """By the rules of torch's own shape functions, which need no device."""
    info, raw = blocks(Type.Q4_1, 32, columns)
    made, size = codes(info, raw), tiles(columns)
    packed = pack_int4([made, made], [None, torch.arange(31, -1, -1)], "meta")
    assert columns % (16 * size) == 0
    assert (packed.packed.shape, packed.packed.dtype) == ((64 // 8, columns // (16 * size), 32, size // 2), torch.int32)
    assert (packed.scale_and_zero.shape, packed.scale_and_zero.dtype) == ((columns // BLOCK, 64, 2), torch.bfloat16)
    with FakeTensorMode():
        x, scales = torch.empty(3, columns, dtype=torch.bfloat16), torch.empty(columns // BLOCK, 64, 2, dtype=torch.bfloat16)
        assert int4_product(x, torch.empty(packed.packed.shape, dtype=torch.int32), scales).shape == (3, 64)


def test_two_codes_share_a_byte_the_first_in_its_high_half():
    q = torch.randint(0, 16, (8, 64), dtype=torch.uint8)
    both = paired(q)
    assert torch.equal(torch.stack([both >> 4, both & 15], -1).flatten(1), q)


@pytest.mark.gpu
def test_the_product_on_a_cuda_device_equals_the_dense_one():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("there is no CUDA device of compute capability 8 here")
    info, raw = blocks(Type.Q4_1, 64, 1536)
    packed = pack_int4([codes(info, raw)], [None], "cuda")
    x = torch.randn(3, 1536).bfloat16()
    expected = x.float() @ dequantise(info, raw).T
    got = int4_product(x.cuda(), packed.packed, packed.scale_and_zero).float().cpu()
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()


def test_weights_that_are_no_numbers_are_refused():
    raw = np.array([1, np.nan, 3, np.inf], np.float32).view(np.uint8)
    with pytest.raises(GGUFError, match="NaN or infinite"):
        dequantise(TensorInfo("w", (4,), Type.F32, 0, 16), raw)


def test_what_the_kernel_cannot_take_is_not_packed():
    assert not can_pack(TensorInfo("w", (15, 64), Type.Q4_1, 0, 0))
    assert not can_pack(TensorInfo("w", (16, 64), Type.Q8_0, 0, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_heads_codes_are_the_nearest_and_a_row_of_zeros_stays_zero(dtype):
    weight = torch.randn(9000, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight[5] = 0
    codes, scales = rounded(weight)
    assert codes.abs().amax(1).tolist() == [0 if i == 5 else 127 for i in range(9000)]
    assert ((codes * scales.unsqueeze(1) - weight.float()).abs() <= 0.5001 * scales.unsqueeze(1)).all()
