"""Explanations equal brute force, keep their promises, and refuse what cannot be explained."""

import pytest
import torch

from assistant.lm.engine import Engine
from assistant.lm.scoring import ReplyScorer
from explain import render
from explain.attributing import Cancelled, attribute
from explain.attribution import Attribution
from explain.faithfulness import grade
from explain.perturbation import matrix as ablate
from explain.problem import Problem
from explain.units import Unit

PROMPT, REPLY = "the sky is blue 天气", "because 空气"


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine.load(tiny_model, dtype="float32", thread_count=1)


@pytest.fixture
def scorer(engine):
    return ReplyScorer(engine.model, [1, *engine.tokenizer.encode(PROMPT)], engine.tokenizer.encode(REPLY))


def explain(engine, scorer, **options):
    ids = scorer.ids.tolist()
    piece = engine.tokenizer.bytes_of
    return attribute(
        scorer, [piece(i) or b"<s>" for i in ids[: scorer.prompt_length]], ["format"] + ["user"] * (scorer.prompt_length - 1),
        [piece(i) for i in ids[scorer.prompt_length :]], **options,
    )  # fmt: skip


def test_hiding_tokens_equals_deleting_them(engine, scorer):
    torch.manual_seed(0)
    keep = torch.rand(6, scorer.prompt_length) < 0.6
    keep[:, 0] = True
    keep[0] = True
    got = scorer.log_probs(keep)
    prompt, reply = scorer.ids[: scorer.prompt_length], scorer.ids[scorer.prompt_length :].tolist()
    for row, mask in zip(got, keep, strict=True):
        alone = ReplyScorer(engine.model, prompt[mask].tolist(), reply)
        expected = alone.log_probs(torch.ones(1, alone.prompt_length, dtype=torch.bool))[0]
        assert (row - expected).abs().max() < 1e-4


def test_the_shared_beginning_changes_nothing(scorer):
    late, early = torch.ones(1, scorer.prompt_length, dtype=torch.bool), torch.ones(1, scorer.prompt_length, dtype=torch.bool)
    late[0, -2], early[0, 1] = False, False
    first = scorer.log_probs(late)
    scorer.log_probs(early)  # forces a shorter shared beginning
    assert torch.allclose(scorer.log_probs(late), first, atol=1e-5)


def test_gradient_and_perturbation_paths_score_the_same(scorer):
    keep = torch.ones(1, scorer.prompt_length, dtype=torch.bool)
    assert torch.allclose(scorer.log_probs(keep), scorer.log_probs_of(scorer.prompt_ids.unsqueeze(0)).detach(), atol=1e-4)


def test_captum_over_our_forward_equals_one_deletion_at_a_time(scorer):
    features = [Unit("", i, i + 2) for i in range(1, 11, 2)]
    matrix = ablate(Problem(scorer, features, [], batch=3))
    whole = torch.ones(1, scorer.prompt_length, dtype=torch.bool)
    base = scorer.log_probs(whole)[0]
    for column, unit in enumerate(features):
        keep = whole.clone()
        keep[0, unit.start : unit.end] = False
        assert torch.allclose(matrix[:, column], base - scorer.log_probs(keep)[0], atol=1e-4)


def test_the_matrix_has_units_as_rows_and_columns_and_spares_the_format(engine, scorer):
    a = explain(engine, scorer)
    assert "".join(a.input_tokens) == "<s>" + PROMPT and "".join(a.output_tokens) == REPLY
    assert a.output_tokens[-2:] == ("空", "气")
    assert a.input_roles[0] == "format" and all(row[0] == 0.0 for row in a.scores)
    assert a.quality["grade"] in ("supported", "weak", "not supported") and a.quality["forwards"] > len(a.input_tokens)
    assert Attribution.from_dict(a.to_dict()) == a


def test_one_token_explains_the_unit_it_belongs_to(engine, scorer):
    whole, one = explain(engine, scorer), explain(engine, scorer, token=len(REPLY.encode()) - 1)
    assert one.output_tokens == ("气",) and one.target.startswith("token ")
    assert one.scores[0] == pytest.approx(whole.scores[-1], abs=1e-4)


def test_integrated_gradients_sum_to_the_difference(engine, scorer):
    a = explain(engine, scorer, method="integrated-gradients", steps=128, baseline_id=scorer.ids[4].item())
    assert sum(a.totals) == pytest.approx(a.quality["difference"], rel=0.05, abs=0.05)
    assert a.quality["completeness_error"] < 0.05 and a.scores[0][0] == 0.0


@pytest.mark.parametrize(
    "options, message",
    [(dict(method="magic"), "no method 'magic'"), (dict(token=99), "tokens 0 to"), (dict(token=-1), "tokens 0")],
)
def test_senseless_requests_are_refused(engine, scorer, options, message):
    with pytest.raises(ValueError, match=message):
        explain(engine, scorer, **options)


def test_a_prompt_of_format_alone_has_nothing_to_attribute_to(engine):
    scorer = ReplyScorer(engine.model, [1], [5])
    with pytest.raises(ValueError, match="no words"):
        explain(engine, scorer)


def test_it_can_be_stopped_and_reports_progress(engine, scorer):
    seen = []
    explain(engine, scorer, progress=seen.append)
    assert seen[-1] == 1.0 and seen == sorted(seen)
    with pytest.raises(Cancelled):
        explain(engine, scorer, cancelled=lambda: True)


def test_gradients_that_are_no_numbers_are_refused(engine, scorer, monkeypatch):
    monkeypatch.setattr(type(scorer), "log_probs_of", lambda self, ids: self.embedding(ids).sum((1, 2)).unsqueeze(1) * float("nan"))
    with pytest.raises(FloatingPointError):
        explain(engine, scorer, method="integrated-gradients", token=0)


@pytest.mark.parametrize("card, features, expected", [
    (dict(drop=5.0, random_mean=1.0, random_better=0.0), 9, "supported"),
    (dict(drop=5.0, random_mean=1.0, random_better=0.3), 9, "weak"),
    (dict(drop=0.5, random_mean=1.0, random_better=0.7), 9, "not supported"),
    (dict(drop=5.0, random_mean=1.0, random_better=0.0), 3, "weak"),
])  # fmt: skip
def test_grades(card, features, expected):
    assert grade(card, features) == expected


def sample(**changes):
    return Attribution(**{**dict(
        method="ablation", target="reply", input_tokens=("<s>", "Hi", "<b>&", "天"), output_tokens=("x", "</script>"),
        scores=((0.0, 1.0, -2.0, 0.5), (0.0, 0.5, 0.0, 0.25)), input_roles=("format", "user", "user", "user"),
        quality={"grade": "weak", "deletion_drop": 1.0, "deletion_random_mean": 0.5},
    ), **changes})  # fmt: skip


def test_the_terminal_view_reads_without_colour():
    text = render.terminal(sample(), colour=False)
    assert "\x1b" not in text and "[user] Hi¹<b>&天²" in text and "quality: weak" in text and "-2.00" in text
    assert "\x1b[48;2;" in render.terminal(sample(), colour=True)


def test_html_is_self_contained_and_escaped():
    page = render.html_page(sample(), title="<i>")
    assert "&lt;b&gt;&amp;" in page and "<b>" not in page and "<i>" not in page
    assert page.count("</script>") == 2  # our own two, none from the data
    assert "http" not in page.replace("http-equiv", "") and "Content-Security-Policy" in page


@pytest.mark.parametrize("changes", [dict(scores=((0.0,),)), dict(output_tokens=("x",)), dict(input_roles=("user",))])
def test_an_attribution_holds_together(changes):
    with pytest.raises(ValueError):
        sample(**changes)


@pytest.mark.model
def test_the_default_model_knows_where_paris_came_from(default_engine):
    from assistant.turn import Message

    prompt = default_engine.render([Message("user", "What is the capital of France?")], reserve=16)
    reply = default_engine.tokenizer.encode("The capital of France is Paris.")
    scorer = ReplyScorer(default_engine.model, prompt.ids, reply)
    tokenizer = default_engine.tokenizer
    a = attribute(
        scorer, [tokenizer.bytes_of(i) or b"<c>" for i in prompt.ids], [p.role or "format" for p in prompt.pieces],
        [tokenizer.bytes_of(i) for i in reply],
    )  # fmt: skip
    best = sorted(range(len(a.totals)), key=lambda i: a.totals[i], reverse=True)[:2]
    assert {a.input_tokens[i] for i in best} == {" capital", " France"}


def test_a_stopped_run_goes_on_where_it_was(engine, scorer):
    known, calls = {}, []

    def stop_after_some():
        calls.append(1)
        return len(calls) > 2

    with pytest.raises(Cancelled):
        explain(engine, scorer, known=known, cancelled=stop_after_some, batch=2)
    assert known
    before = scorer.forwards
    resumed = explain(engine, scorer, known=dict(known))
    cost = scorer.forwards - before
    fresh = explain(engine, ReplyScorer(engine.model, scorer.prompt_ids.tolist(), scorer.ids[scorer.prompt_length :].tolist()))
    assert resumed.totals == pytest.approx(fresh.totals, abs=1e-4) and cost < fresh.quality["forwards"]


def test_a_part_of_the_reply_is_explained_alone(engine, scorer):
    whole = explain(engine, scorer)
    part = explain(engine, scorer, span=(0, 3))
    assert part.target == "tokens 0:3" and part.output_tokens == whole.output_tokens[:3]
    assert part.totals == pytest.approx([sum(row[i] for row in whole.scores[:3]) for i in range(len(whole.totals))], abs=1e-4)
    one = explain(engine, scorer, sentence=0)
    assert one.target == "sentence 0" and one.totals == pytest.approx(whole.totals, abs=1e-4)


@pytest.mark.parametrize("level, pieces", [("character", 10), ("turn", 1), ("role", 1)])
def test_levels_of_the_prompt(engine, scorer, level, pieces):
    a = explain(engine, scorer, level=level)
    assert a.quality["features"] == pieces and "".join(a.input_tokens).endswith("天气")


@pytest.mark.parametrize(
    "method", ["balanced-ablation", "ablation", "gradient-norm", "integrated-gradients", "contextcite", "shapley", "attention-rollout"]
)
def test_every_card_is_complete(engine, scorer, method):
    a = explain(engine, scorer, method=method, samples=32, steps=4)
    tested = {"deletion_drop", "deletion_random_mean", "deletion_drop_1", "deletion_drop_5", "insertion_rise", "insertion_random_mean"}
    assert tested | {"grade", "stability", "format_share", "forwards", "seconds"} <= set(a.quality)
    assert ("completeness_error" in a.quality) == (method not in ("gradient-norm", "attention-rollout"))
    assert -1 <= a.quality["stability"] <= 1
    shown = render.terminal(a, colour=False)
    assert ("not an attribution" in shown) == (method == "attention-rollout") == ("not an attribution" in render.html_page(a))
    assert "without five" in shown


def test_an_explanation_no_better_than_chance_says_so():
    assert "no better than a random one" in render.terminal(sample(quality={"grade": "not supported"}), colour=False)
    text = render.terminal(sample(quality={"grade": "weak", "seconds": 1.0, "joules": 12.0, "energy_source": "measured"}), colour=False)
    assert "12 J (measured)" in text
