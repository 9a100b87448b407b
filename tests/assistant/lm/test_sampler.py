"""Sampling is a function of logits, seed and step alone, and draws from the distribution it says."""

import math

import pytest
import torch

from assistant.errors import UsageError
from assistant.lm import sampler
from assistant.lm.sampler import PENALTY_WINDOW, draw, gumbel, truncate
from assistant.turn import Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=7)


def sampling(**changes):
    return Sampling(**{**dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=7), **changes})


def test_noise_depends_on_seed_step_and_token_only():
    assert gumbel(1, 2, 3) == gumbel(1, 2, 3)
    assert len({gumbel(1, 2, 3), gumbel(2, 2, 3), gumbel(1, 3, 3), gumbel(1, 2, 4)}) == 4


def test_the_noise_is_pinned_so_that_old_logs_stay_replayable():
    assert gumbel(0, 0, 0) == pytest.approx(1.959167676956442, abs=1e-12)
    assert gumbel(2**64 - 1, 511, 49151) == pytest.approx(-0.313870533732274, abs=1e-12)


def test_draws_follow_the_distribution():
    p = torch.softmax(LOGITS, 0)
    counts = torch.zeros(5)
    n = 4000
    for step in range(n):
        counts[draw(truncate(LOGITS, [], PLAIN), PLAIN, step)] += 1
    for got, expected in zip((counts / n).tolist(), p.tolist(), strict=True):
        assert abs(got - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_temperature_zero_takes_the_likeliest_and_needs_no_seed():
    greedy = sampling(temperature=0, seed=None)
    assert draw(truncate(LOGITS, [], greedy), greedy, 0) == 0


def test_what_was_looked_up_already_is_taken_only_where_it_decides():
    greedy = sampling(temperature=0, seed=None)
    known = sampler.Kept(torch.tensor([0, 1]), LOGITS[:2])
    assert truncate(LOGITS, [], greedy, known).ids.tolist() == [0]
    alike = torch.tensor([1.0, 3.0, 3.0])  # of equals the first wins, whatever order they were found in
    assert truncate(alike, [], greedy, sampler.Kept(torch.tensor([2, 1]), alike[1:])).ids.tolist() == [1]
    penalised = sampling(temperature=0, repetition_penalty=4.0)
    assert truncate(LOGITS, [0], penalised, known).ids.tolist() == [1]
    assert truncate(LOGITS, [], sampling(top_k=3), known).ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "changes, kept",
    [
        (dict(top_k=2), [0, 1]),
        (dict(top_k=99), [0, 1, 2, 3, 4]),
        (dict(top_p=0.5), [0]),
        (dict(top_p=0.7), [0, 1]),
        (dict(top_p=0.0), [0]),
        (dict(min_p=0.3), [0, 1]),
        (dict(min_p=1.0), [0]),
        (dict(top_k=3, min_p=0.3), [0, 1]),
    ],
)
def test_truncation_keeps_the_head(changes, kept):
    assert truncate(LOGITS, [], sampling(**changes)).ids.tolist() == kept


def test_the_penalty_lowers_tokens_of_the_reply_within_its_window():
    kept = truncate(LOGITS, [0, 4], sampling(repetition_penalty=2.0))
    values = dict(zip(kept.ids.tolist(), kept.logits.tolist(), strict=True))
    assert values == {0: 1.0, 1: 1.0, 2: 0.0, 3: -1.0, 4: -4.0}
    old = [0] + [1] * PENALTY_WINDOW
    assert truncate(LOGITS, old, sampling(repetition_penalty=2.0)).logits.max() == 2.0
    assert LOGITS[0] == 2.0  # the caller's logits are untouched


@pytest.mark.parametrize(
    "values",
    [dict(temperature=-1), dict(temperature=float("nan")), dict(top_p=1.5), dict(min_p=-0.1), dict(top_k=-1), dict(max_tokens=0),
     dict(seed=-1), dict(seed=2**64), dict(stop=("",)), dict(repetition_penalty=0)],
)  # fmt: skip
def test_impossible_sampling_is_refused_by_name(values):
    with pytest.raises(UsageError, match=next(iter(values)).split("_")[0]):
        Sampling(**values)


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"min_p": 0.05}, {"top_p": 0.99, "min_p": 0.001}, {"top_k": 2000, "top_p": 0.95}])
def test_looking_at_the_head_first_keeps_what_a_whole_sort_keeps(scale, changes, monkeypatch):
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * scale
    quick = sampler.truncate(logits, [], sampling(**changes))
    monkeypatch.setattr(sampler, "HEAD", 5000)
    whole = sampler.truncate(logits, [], sampling(**changes))
    assert torch.equal(quick.ids, whole.ids) and torch.equal(quick.logits, whole.logits)
