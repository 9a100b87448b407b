"""The quick ways to the likeliest tokens find what `argmax` and `topk` find."""

import pytest
import torch

from assistant.lm.topk import among_likeliest, highest, likeliest


@pytest.mark.parametrize("size", [5, 100, 64 * 30, 49152, 49151])
@pytest.mark.parametrize("k", [1, 5, 600])
def test_the_greatest_are_found_wherever_they_stand(size, k):
    k = min(k, size)
    generator = torch.Generator().manual_seed(size)
    for logits in (torch.randn(size, generator=generator), torch.arange(size).float(), torch.arange(size).flip(0).float()):
        wanted = torch.topk(logits, k)
        values, ids = likeliest(logits, k)
        assert torch.equal(values, wanted.values) and torch.equal(ids, wanted.indices)
        assert set(among_likeliest(logits, k).tolist()) == set(wanted.indices.tolist())
        assert highest(logits) == int(logits.argmax())


@pytest.mark.parametrize("size", [100, 49152])
def test_equal_scores_and_no_numbers_are_no_trouble(size):
    same = torch.zeros(size)
    assert highest(same) == 0 and likeliest(same, 5)[0].tolist() == [0.0] * 5 and len(set(likeliest(same, 5)[1].tolist())) == 5
    assert len(set(among_likeliest(same, 50).tolist())) == 50
    barred = torch.full((size,), -torch.inf)
    barred[size - 3] = 1.0
    assert highest(barred) == size - 3 and likeliest(barred, 3)[1][0] == size - 3 and len(set(among_likeliest(barred, 50).tolist())) == 50
    broken = torch.full((size,), torch.nan)
    assert 0 <= highest(broken) < size and likeliest(broken, 5)[0].isnan().all() and len(set(among_likeliest(broken, 50).tolist())) == 50
