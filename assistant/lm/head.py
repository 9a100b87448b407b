"""The output matrix for one token: exactly, or for a large vocabulary quickly and exactly where it matters."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.lm.packed_linear import is_int8
from assistant.lm.topk import among_likeliest
from assistant.lm.transformer import Transformer

Product = Callable[[Tensor], Tensor]
SHORTLIST = 512
"""How many of the likeliest tokens get their exact scores. What lies beyond it decides how far the whole distribution is from the exact
one: mean KL 0.0033 with 64, 0.0015 with 256 (default model, `pellucid bench quality`); 512 cost 2 % of a token's time more than 64."""
_ROWS = 8192


def dense_product(weight: Tensor) -> Product:
    """x (1, in) float32 → (1, out) float32 through a dense matrix in its own precision."""
    return lambda x: F.linear(x.to(weight.dtype), weight).to(torch.float32)


def shortlist_product(weight: Tensor) -> Product:
    """x (1, in) float32 → (1, out) float32 for a large vocabulary: all rows through 8-bit weights and activations, then the best
    SHORTLIST rows again, exactly. Without an 8-bit kernel all rows in bfloat16.
    """
    if not {"x86", "fbgemm"} & set(torch.backends.quantized.supported_engines):
        return dense_product(weight.to(torch.bfloat16))
    codes, scales = rounded(weight)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():  # torch announces that these types will move to another package
        warnings.simplefilter("ignore")
        rows = torch._make_per_channel_quantized_tensor(codes, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(rows, None)
    kernel = torch.ops.quantized.linear_dynamic.default

    def product(x: Tensor) -> Tensor:
        scores: Tensor = kernel(x, packed, True)
        best = among_likeliest(scores[0], min(SHORTLIST, len(weight)))
        scores[0, best] = torch.mv(weight.index_select(0, best).float(), x[0])
        return scores

    return product


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in) → codes (out, in) int8 and scales (out,) with weight ≈ scale · code; piece by piece, to spare memory."""
    codes, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    for first in range(0, len(weight), _ROWS):
        part, code, scale = (x[first : first + _ROWS] for x in (weight, codes, scales))
        low, high = torch.aminmax(part.float(), dim=1)
        torch.maximum(-low, high, out=scale).clamp_(min=1e-8).div_(127)
        code.copy_((part / scale.unsqueeze(1)).round_())
    return codes, scales


def head_product(model: Transformer, *, quick: bool) -> Product:
    """Hidden state (1, D) → scores (1, V); `quick`, or where the blocks are int8, through the shortlist."""
    weight, cap = model.head.weight, model.config.logit_softcap
    scores = shortlist_product(weight) if quick or is_int8(model.blocks[0]) else dense_product(weight)
    return (lambda x: cap * torch.tanh(scores(x) / cap)) if cap else scores
