"""The judge of explanations: it knows good scores from random ones, and refuses what it cannot judge."""

import pytest
import torch

from assistant.benchmarks import faithfulness as bench
from assistant.benchmarks import spans
from assistant.lm.engine import Engine
from explain import evaluation
from explain.attention import POWERS
from explain.problem import Problem
from explain.units import Unit
from tests.explain.test_methods import Additive


def problem(weights):
    return Problem(Additive(weights), [Unit(str(i), i, i + 1, "user") for i in range(len(weights))], [Unit("a", 0, 2)])


def test_subsets_have_one_size_and_depend_on_the_seed_only():
    masks = evaluation.subsets(11, 24, seed=3)
    assert set(masks.sum(1).tolist()) == {5.0} and torch.equal(masks, evaluation.subsets(11, 24, seed=3))
    assert not torch.equal(masks, evaluation.subsets(11, 24, seed=4))


def test_true_weights_score_one_reversed_ones_minus_one_and_constant_ones_nothing():
    weights = [float(2**i) for i in range(8)]
    masks, actual = evaluation.outcomes(problem(weights))
    assert evaluation.datamodelling_score(weights, masks, actual) == pytest.approx(1.0)
    assert evaluation.datamodelling_score([-w for w in weights], masks, actual) == pytest.approx(-1.0)
    assert abs(evaluation.datamodelling_score([1.0] * 8, masks, actual)) < 1e-6  # with one size, counting tells nothing


def test_the_interval_holds_the_mean():
    mean, low, high = evaluation.interval([0.0, 1.0] * 50)
    assert mean == 0.5 and 0.35 < low < mean < high < 0.65
    with pytest.raises(ValueError, match="nothing to average"):
        evaluation.interval([])


def test_the_fit_finds_the_head_that_matters():
    torch.manual_seed(0)
    features, masks, actual = [], [], []
    for seed in range(6):
        attention = torch.rand(5, 10)
        mask = evaluation.subsets(10, 24, seed)
        features.append(attention)
        masks.append(mask)
        actual.append(mask @ attention[2] * 3.0)
    theta = evaluation.fit_heads(features, masks, actual, ridge=1e-3)
    assert theta.argmax() == 2 and theta[2] > 5 * theta[[0, 1, 3, 4]].abs().max()


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine.load(tiny_model, dtype="float32", thread_count=1)


def test_all_methods_are_judged_on_a_model(engine):
    fitted = bench.fit(engine, ["one two three four", "甲乙丙丁"], subsets=8)
    theta = torch.tensor(fitted["coefficients"])
    c = engine.model.config
    assert theta.shape == (len(POWERS) * c.n_layers * (c.n_heads + c.n_kv_heads),) and fitted["sha256"] == engine.info.sha256
    result = bench.evaluate(engine, {"en": ["the sky is blue"], "zh": ["天空是蓝色的"]}, theta)
    assert set(result["methods"]) == {*bench.COMPARED, "random"}
    for row in result["methods"].values():
        assert -1 <= row["lds_95"][0] <= row["lds"] <= row["lds_95"][1] <= 1 and {"lds_en", "lds_zh_95", "drop_top3_nats"} <= set(row)
        assert 0 <= row.get("met", 0) <= 1
    assert "learned-attention" not in bench.evaluate(engine, {"en": ["the sky is blue"]}, None)["methods"]


def test_shuffled_weights_leave_the_model_as_it_was(engine):
    before = engine.model.embedding.weight.clone()
    found = bench.randomised(engine, ["the sky is blue"], None)["methods"]
    assert torch.equal(engine.model.embedding.weight, before) and {"shapley", "integrated-gradients", "balanced-ablation"} <= set(found)
    assert all(-1 <= row["correlation_95"][0] <= row["correlation"] <= row["correlation_95"][1] <= 1 for row in found.values())


def test_prompts_are_lines(tmp_path):
    (tmp_path / "p.txt").write_text("# note\n\n one \ntwo\n", encoding="utf-8")
    assert bench.read_prompts(tmp_path / "p.txt") == ["one", "two"]


class Marker:
    """A guard to whom every `bad` weighs 2 and all else 0.1."""

    def explain(self, text, role):
        out = [{"text": "", "start": 0, "end": 0, "weight": -1.0}]
        at = 0
        for word in text.split(" "):
            out.append({"text": word, "start": at, "end": at + len(word), "weight": 2.0 if word == "bad" else 0.1})
            at += len(word) + 1
        return out


def test_marked_characters_are_compared_with_those_of_people():
    rows = [spans.Row("a bad day", frozenset(range(2, 5))), spans.Row("bad bad", frozenset(range(7)))]
    result = spans.evaluate(Marker(), rows, rows)
    assert result["character_f1"] > 0.95 and result["auprc"] > 0.9
    assert result["none_f1"] == 0.0 and result["all_f1"] == pytest.approx((0.5 + 1.0) / 2)


@pytest.mark.parametrize("gold, found, score", [(set(), set(), 1.0), ({1}, set(), 0.0), (set(), {1}, 0.0), ({1, 2}, {2, 3}, 0.5)])
def test_character_f1(gold, found, score):
    assert spans.f1(frozenset(gold), frozenset(found)) == score


def test_average_precision_takes_ties_together():
    assert spans.average_precision([1.0, 1.0, 0.0, 0.0], frozenset({0})) == pytest.approx(0.5)
    assert spans.average_precision([2.0, 1.0], frozenset({0})) == 1.0 and spans.average_precision([1.0], frozenset()) == 0.0


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "rationale": [[0, 1]]}\n{"text": "b"}\n', encoding="utf-8")
    assert spans.read(tmp_path / "x.jsonl") == [spans.Row("a", frozenset({0}))]
    (tmp_path / "x.jsonl").write_text('{"text": "a", "rationale": [[0, 1]]}\n[1]\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        spans.read(tmp_path / "x.jsonl")
