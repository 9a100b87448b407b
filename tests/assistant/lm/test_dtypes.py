"""The comparison of number formats says what its figures mean, and leaves out what a file has not."""

import pytest
import torch

from assistant.benchmarks import contexts
from assistant.benchmarks.dtypes import compare, energy, quality
from assistant.errors import UsageError
from assistant.settings import Settings


def test_the_divergence_of_a_distribution_from_itself_is_nothing():
    exact = torch.randn(7, 11).log_softmax(-1)
    assert compare(exact, exact) == {"mean_kl": 0.0, "p99_kl": 0.0, "top1_agreement": 1.0}
    other = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    found = compare(torch.log(torch.tensor([[0.25, 0.5, 0.25]])), other)
    assert found["top1_agreement"] == 0.0 and found["mean_kl"] == pytest.approx(0.25 * 0.6931, abs=1e-4)


def test_every_dtype_that_the_file_has_is_compared(tiny_model):
    result = quality(Settings(), tiny_model, tokens=40)
    assert result["tokens"] == 40 and isinstance(result["dtypes"]["int4"], str)
    for dtype in ("bfloat16", "float16", "int8"):
        figures = result["dtypes"][dtype]
        assert 0 <= figures["mean_kl"] < 0.05 and figures["top1_agreement"] > 0.7
        assert figures["mean_kl"] == pytest.approx((figures["en"]["mean_kl"] + figures["zh"]["mean_kl"]) / 2, abs=1e-5)
    with pytest.raises(UsageError, match="not available"):
        quality(Settings(device="nonsense"), tiny_model)


def test_energy_is_labelled_for_every_dtype(tiny_model):
    result = energy(Settings(context=512), tiny_model, rounds=1)
    assert result["energy_source"].startswith(("measured", "estimated"))
    assert set(result["dtypes"]) == {"float32", "bfloat16", "float16", "int8"}
    assert all(figures["joules_per_token"]["median"] >= 0 for figures in result["dtypes"].values())


def test_a_longer_context_is_measured_up_to_the_models_own(tiny_model):
    rows = contexts.bench(Settings(), tiny_model, (96, 32))["lengths"]
    assert list(rows) == ["32", "96"] and rows["32"]["read_growth"] == rows["32"]["token_growth"] == 1
    assert rows["96"]["cache_megabytes"] > rows["32"]["cache_megabytes"] > 0
    with pytest.raises(UsageError, match="measure at most that less 32"):
        contexts.bench(Settings(), tiny_model, (100_000,))
