"""Methods that draw at random say how sure they are; verdicts can be taken apart; every form of output holds together."""

import numpy as np
import pytest
import torch

from explain import balanced, faithfulness
from explain.attribution import Attribution
from explain.compare import agreement, ranks, spearman, table
from explain.counterfactual import search
from explain.problem import Problem
from explain.sampling import contextcite, lasso, shapley
from explain.units import Unit


class Additive:
    """A model whose reply log-probability is a sum over the prompt tokens that are there (plus products of neighbours)."""

    def __init__(self, weights, product=0.0):
        self.weights, self.product = torch.tensor(weights), product
        self.prompt_length, self.reply_length, self.forwards = len(weights), 2, 0

    def log_probs(self, keep):
        self.forwards += len(keep)
        x = keep.float()
        both = (x[:, 1:] * x[:, :-1]).sum(1) * self.product
        total = (x * self.weights).sum(1) + both - self.weights.clamp(min=0).sum() - 1
        return torch.stack([total * 0.75, total * 0.25], 1)


def problem(weights, product=0.0, **options):
    features = [Unit(str(i), i, i + 1, "user") for i in range(len(weights))]
    return Problem(Additive(weights, product), features, [Unit("a", 0, 1), Unit("b", 1, 2)], **options)


def test_shapley_values_of_a_sum_are_its_weights_and_need_few_orders():
    p = problem([2.0, -1.0, 0.5, 0.0])
    found = shapley(p)
    assert np.sum(found.rows, 0) == pytest.approx([2.0, -1.0, 0.5, 0.0], abs=1e-4)
    assert found.rows[0][0] == pytest.approx(1.5, abs=1e-4) and found.labels == ["a", "b"]
    assert found.card["converged"] and found.card["orders"] == 4 and max(found.errors) < 1e-4
    assert found.card["completeness_error"] < 1e-4


def test_shapley_splits_what_two_did_together_and_says_how_sure_it_is():
    found = shapley(problem([1.0, 0.0, 0.0], product=2.0, samples=40))
    assert sum(np.sum(found.rows, 0)) == pytest.approx(1.0 + 4.0, abs=1e-3)  # efficiency
    assert np.sum(found.rows, 0) == pytest.approx([2.0, 2.0, 1.0], abs=0.8)
    again = shapley(problem([1.0, 0.0, 0.0], product=2.0, samples=40))
    assert again.rows == found.rows  # the seed decides


def test_sampling_leaves_torchs_generator_alone():
    state = torch.random.get_rng_state()
    shapley(problem([1.0, 2.0]))
    contextcite(problem([1.0, 2.0]))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_balanced_ablation_of_a_sum_is_about_its_weights():
    found = balanced.balance(problem([2.0, -1.0, 0.5, 0.0, 1.0, -0.3]))
    assert np.sum(found.rows, 0) == pytest.approx([2.0, -1.0, 0.5, 0.0, 1.0, -0.3], abs=0.06)
    assert found.rows[0][0] == pytest.approx(3 * found.rows[1][0], abs=1e-3) and found.labels == ["a", "b"]
    assert found.card["stability"] > 0.9


def test_balanced_ablation_gives_a_needed_pair_half_of_what_it_does_together():
    weights = [0.0] * 6
    alone = np.sum(perturbation_of(weights, 4.0), 0)
    assert alone[1] == pytest.approx(8.0)  # the whole of both products it takes part in, and so for its neighbours
    found = np.sum(balanced.balance(problem(weights, product=4.0)).rows, 0)
    assert found[1:-1] == pytest.approx([4.0] * 4, abs=0.5) and found[[0, -1]] == pytest.approx([2.0] * 2, abs=0.5)  # Banzhaf values


def perturbation_of(weights, product):
    from explain.perturbation import ablate

    return ablate(problem(weights, product)).rows


def test_balanced_ablation_runs_what_it_says_and_no_subset_twice():
    p = problem([float(i) for i in range(12)])
    balanced.balance(p)
    assert p.target.forwards == len(p.known) <= balanced.cost(12)
    few = problem([1.0, 2.0])
    assert np.sum(balanced.balance(few).rows, 0) == pytest.approx([1.0, 2.0], abs=0.1) and few.target.forwards == 4
    one = problem([1.5])
    assert np.sum(balanced.balance(one).rows, 0) == pytest.approx([1.5], abs=0.1)
    p.samples, p.known = 8, {}
    before = p.target.forwards
    assert balanced.balance(p).card["pairs"] == 4 and p.target.forwards - before <= balanced.cost(12, 4)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 13])
def test_what_balanced_ablation_draws_is_none_of_what_it_is_judged_by(count):
    drawn = balanced.subsets(count, 40, seed=3)
    sizes = {*drawn.sum(1).tolist(), *(1 - drawn).sum(1).tolist()}
    assert sizes == {max(count // 2 - 1, 0), count - max(count // 2 - 1, 0)} and count // 2 not in sizes - {0, count}
    assert torch.equal(drawn, balanced.subsets(count, 40, seed=3))


def test_the_closed_form_is_the_mean_over_all_companies():
    torch.manual_seed(0)
    masks = torch.tensor([[float(n >> i & 1) for i in range(5)] for n in range(32)])
    some, outcomes = masks[torch.randperm(32)[:14]], torch.randn(14).double()

    def kernel(one, other):
        near = (one[:, None] == other[None]).double().sum(-1)
        return balanced.LINEAR * (2 * one - 1).double() @ (2 * other - 1).double().t() / 5 + torch.exp((near - 5) / 5) + 1

    weights = torch.linalg.solve(kernel(some, some) + balanced.NOISE * torch.eye(14), outcomes - outcomes.mean())
    surface = kernel(masks, some) @ weights
    expected = [float(surface[masks[:, i] == 1].mean() - surface[masks[:, i] == 0].mean()) for i in range(5)]
    assert (balanced.surface(some) @ outcomes).tolist() == pytest.approx(expected, abs=1e-6)


def test_contextcite_finds_the_few_pieces_that_matter():
    weights = [0.0] * 12
    weights[3], weights[8] = 4.0, 2.0
    found = contextcite(problem(weights, samples=256))
    row = found.rows[0]
    assert sorted(range(12), key=lambda i: row[i], reverse=True)[:2] == [3, 8]
    assert max(abs(row[i]) for i in range(12) if i not in (3, 8)) < 0.5
    assert found.card["samples"] < 256 and found.card["converged"] and len(found.errors) == 12


def test_the_lasso_shrinks_and_ignores_what_never_changes():
    rng = np.random.default_rng(0)
    x = (rng.random((200, 5)) < 0.5).astype(float)
    x[:, 4] = 1.0
    w = lasso(x, 3 * x[:, 0] - x[:, 1] + 0.5)
    assert w == pytest.approx([3.0, -1.0, 0.0, 0.0, 0.0], abs=0.06) and w[4] == 0.0
    assert not lasso(x, 3 * x[:, 0], penalty=10.0).any()


def test_no_subset_is_scored_twice():
    p = problem([1.0, 2.0, 3.0])
    first = p.forward(torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]))
    assert p.target.forwards == 1 and torch.equal(first[0], first[1])
    other = problem([1.0, 2.0, 3.0], known=p.known)
    other.forward(torch.tensor([[1.0, 0.0, 1.0]]))
    assert other.target.forwards == 0


def test_deletion_and_insertion_tell_good_scores_from_bad_ones():
    weights = [3.0, 2.0, 1.0] + [0.0] * 9
    good, bad = faithfulness.deletion_test(problem(weights), weights), faithfulness.deletion_test(problem(weights), weights[::-1])
    assert good["drop"] == pytest.approx(6.0, abs=1e-4) and good["drop_1"] == pytest.approx(3.0, abs=1e-4)
    assert faithfulness.grade(good, 12) == "supported" and faithfulness.grade(bad, 12) == "not supported"
    rise = faithfulness.insertion_test(problem(weights), weights)
    assert rise["rise"] == pytest.approx(6.0, abs=1e-4) and rise["rise"] > rise["random_mean"]


def test_sampling_tells_how_far_two_seeds_agree():
    assert shapley(problem([4.0, 3.0, 2.0, 1.0])).card["stability"] == pytest.approx(1.0)
    steady, noisy = contextcite(problem([4.0, 2.0, 1.0, 0.0] * 2, samples=256)), contextcite(problem([0.01] * 8, samples=16))
    assert 0.8 < steady.card["stability"] <= 1.0 and noisy.card["stability"] < steady.card["stability"]


def test_completeness_counts_what_pieces_do_together():
    assert faithfulness.completeness(problem([2.0, 1.0]), [2.0, 1.0]) == pytest.approx(0.0, abs=1e-5)
    assert faithfulness.completeness(problem([2.0, 1.0], product=1.0), [3.0, 2.0]) == pytest.approx(0.25, abs=1e-5)


def test_the_share_of_template_tokens():
    p = problem([1.0, 5.0, 2.0])
    p.features, p.roles = p.features[2:], ["format", "format", "user"]
    assert faithfulness.format_share(p, [2.0]) == pytest.approx(5 / 7, abs=1e-5)
    p.roles = ["format", "user", "user"]
    assert faithfulness.format_share(p, [2.0]) is None  # the first token always stays

    def refuse(keep):
        raise ValueError("other tokens")

    p.roles, p.target.log_probs = ["format", "format", "user"], refuse
    assert faithfulness.format_share(p, [2.0]) is None


def flagged(*needed):
    """A verdict that holds as long as any of the groups of words is whole."""
    return lambda sets: [max(1.0 if not set(group) & removed else -1.0 for group in needed) for removed in sets]


def test_one_word_decides():
    found = search(5, flagged({2}))
    assert (found.necessary, found.sufficient, found.flip, found.margin_after) == ((2,), (2,), (2,), -1.0)


def test_two_reasons_need_two_edits_and_either_suffices():
    found = search(6, flagged({1}, {4}))
    assert found.necessary == () and found.flip == (1, 4) and found.sufficient in ((1,), (4,))


def test_a_flip_of_many_words_is_minimal():
    found = search(12, flagged({1}, {4}, {6}, {9}))
    assert found.flip == (1, 4, 6, 9)
    for word in found.flip:
        assert flagged({1}, {4}, {6}, {9})([frozenset(found.flip) - {word}])[0] > 0


def test_no_flip_within_the_limit_is_an_answer():
    found = search(6, lambda sets: [1.0] * len(sets))
    assert found.flip is None and found.margin_after is None and found.evaluations > 6


def test_what_is_not_flagged_cannot_be_flipped():
    with pytest.raises(ValueError, match="not flagged"):
        search(3, lambda sets: [-1.0] * len(sets))
    with pytest.raises(ValueError, match="no words"):
        search(0, lambda sets: [1.0] * len(sets))


def sample(method, scores):
    return Attribution(
        method,
        "reply",
        ("<s>", "天气", "b"),
        ("x",),
        (tuple(scores),),
        {"grade": "weak", "method_seconds": 1.0},
        ("format", "user", "user"),
    )


def test_methods_side_by_side():
    one, other = sample("ablation", [0.0, 1.0, 2.0]), sample("shapley", [0.0, 2.0, 1.0])
    text = table([one, other])
    assert "天气" in text and "<s>" not in text and "rank correlation ablation ~ shapley: -1.00" in text
    assert agreement([one, one]) == {"ablation ~ ablation": pytest.approx(1.0)}
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5] and spearman([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_a_picture_is_written(tmp_path):
    from explain.picture import cells, save

    save(sample("ablation", [0.0, 1.0, -2.0]), tmp_path / "a.png", "Turn $x$")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and cells("天a") == 3
    with pytest.raises(OSError):
        save(sample("ablation", [0.0, 1.0, -2.0]), tmp_path / "no" / "a.png", "t")


def test_errors_survive_the_ledger():
    a = Attribution("shapley", "reply", ("a",), ("x",), ((1.0,),), {}, ("user",), (0.1,))
    assert Attribution.from_dict(a.to_dict()) == a and "errors" not in sample("ablation", [0, 1, 2]).to_dict()
