"""Any causal model can be explained: one of `transformers`, one behind a server, a difference of two replies."""

import pytest
import torch

from assistant.lm.engine import Engine
from assistant.lm.scoring import ReplyScorer
from explain import attribute
from explain.attributing import METHODS
from explain.huggingface import TransformersTarget
from explain.remote import RemoteTarget
from explain.target import Attentive, Difference, Differentiable

PROMPT, REPLY = "the sky is blue 天气", "because 空气"


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine.load(tiny_model, dtype="float32", thread_count=1)


@pytest.fixture(scope="module")
def transformers_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=128,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def ids_of(engine, text):
    return engine.tokenizer.encode(text)


def explain(engine, target, reply, **options):
    ids = [1, *ids_of(engine, PROMPT)]
    pieces = [engine.tokenizer.bytes_of(i) or b"<s>" for i in ids]
    return attribute(target, pieces, ["format"] + ["user"] * (len(ids) - 1), reply, **options)


def test_the_public_name_is_the_function_even_after_its_module_was_loaded():
    import explain
    import explain.attributing

    assert explain.attribute is explain.attributing.attribute
    with pytest.raises(AttributeError):
        explain.nothing  # noqa: B018


def test_a_transformers_model_deletes_exactly(transformers_model):
    prompt, reply = list(range(5, 25)), [3, 4, 5, 6]
    target = TransformersTarget(transformers_model, prompt, reply)
    torch.manual_seed(1)
    keep = torch.rand(5, 20) < 0.6
    keep[:, 0] = True
    keep[0] = True
    for row, mask in zip(target.log_probs(keep), keep, strict=True):
        rest = [i for i, kept in zip(prompt, mask.tolist(), strict=True) if kept]
        logits = transformers_model(input_ids=torch.tensor([rest + reply[:-1]])).logits[0].log_softmax(-1)
        expected = logits[len(rest) - 1 :].gather(-1, torch.tensor(reply).unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(row, expected, atol=1e-4)


@pytest.mark.parametrize(
    "method", ["balanced-ablation", "ablation", "gradient-norm", "integrated-gradients", "contextcite", "shapley", "input-x-gradient"]
)
def test_every_method_but_attention_works_on_a_transformers_model(transformers_model, method):
    target = TransformersTarget(transformers_model, list(range(5, 13)), [3, 4])
    a = attribute(target, [b"a"] * 8, ["format"] + ["user"] * 7, [b"x", b"y"], method=method, samples=32, steps=4)
    assert len(a.totals) == 8 and a.totals[0] == 0.0 and any(a.totals) and a.quality["forwards"] > 0


@pytest.mark.parametrize("method", ["learned-attention", "attention-rollout"])
def test_attention_of_a_model_that_does_not_show_it_is_refused(transformers_model, method):
    target = TransformersTarget(transformers_model, list(range(5, 13)), [3, 4])
    with pytest.raises(ValueError, match=r"attention weights|no coefficients"):
        attribute(target, [b"a"] * 8, ["format"] + ["user"] * 7, [b"x", b"y"], method=method)


class Provider:
    """Captum's protocol over our own model, as a server would answer."""

    def __init__(self, engine):
        self.engine = engine

    def get_logprobs(self, input_prompt, target_str, tokenizer):
        scorer = ReplyScorer(self.engine.model, ids_of(self.engine, input_prompt), ids_of(self.engine, target_str))
        return scorer.log_probs(torch.ones(1, scorer.prompt_length, dtype=torch.bool))[0].tolist()


def test_a_served_model_gives_the_same_as_the_local_one(engine):
    words = ["the", " sky", " is", " blue"]
    remote = RemoteTarget(Provider(engine), words, REPLY)
    far = attribute(
        remote,
        [w.encode() for w in words],
        ["format", "user", "user", "user"],
        [c.encode() for c in REPLY[:1]] * remote.reply_length,
        method="ablation",
    )
    ids = [ids_of(engine, w) for w in words]
    local = ReplyScorer(engine.model, [i for word in ids for i in word], ids_of(engine, REPLY))
    for i in range(1, 4):
        keep = torch.ones(1, local.prompt_length, dtype=torch.bool)
        start = sum(map(len, ids[:i]))
        keep[0, start : start + len(ids[i])] = False
        drop = (local.log_probs(torch.ones_like(keep)) - local.log_probs(keep)).sum().item()
        assert far.totals[i] == pytest.approx(drop, abs=1e-3)
    with pytest.raises(ValueError, match="gradients"):
        attribute(remote, [b"a"] * 4, ["user"] * 4, [b"x"] * remote.reply_length, method="gradient-norm")


def test_a_difference_is_the_log_odds_of_two_replies(engine):
    prompt, one, other = [1, *ids_of(engine, PROMPT)], ids_of(engine, "ab cd"), ids_of(engine, "ab xyz")
    a, b = ReplyScorer(engine.model, prompt, one), ReplyScorer(engine.model, prompt, other)
    target = Difference(a, b, range(3, 5), range(3, 6))
    keep = torch.ones(2, len(prompt), dtype=torch.bool)
    keep[1, 4] = False
    expected = a.log_probs(keep)[:, 3:5].sum(1) - b.log_probs(keep)[:, 3:6].sum(1)
    assert torch.allclose(target.log_probs(keep)[:, 0], expected, atol=1e-5)
    assert isinstance(a, Differentiable) and isinstance(a, Attentive)
    for method in ("ablation", "integrated-gradients", "gradient-norm"):
        assert any(explain(engine, target, [b"one not other"], method=method, steps=4).totals)
    with pytest.raises(ValueError, match="attention"):
        explain(engine, target, [b"one not other"], method="attention-rollout")
    with pytest.raises(ValueError, match="same prompt"):
        Difference(a, ReplyScorer(engine.model, prompt[:-1], other), [0], [0])
    with pytest.raises(ValueError, match="at least one token"):
        Difference(a, b, [], [0])


def test_attention_rows_are_distributions_and_equal_the_models_own(engine):
    scorer = ReplyScorer(engine.model, [1, *ids_of(engine, PROMPT)], ids_of(engine, REPLY))
    some, all_rows = scorer.attention(scorer.prompt_length - 1), scorer.attention()
    length = scorer.prompt_length + scorer.reply_length - 1
    assert some.shape[2:] == (scorer.reply_length, length) and all_rows.shape[2:] == (length, length)
    assert torch.allclose(some.sum(-1), torch.ones(some.shape[:-1]), atol=1e-5)
    assert torch.allclose(all_rows[:, :, scorer.prompt_length - 1 :], some, atol=1e-6)
    assert all_rows.triu(1).abs().max() == 0


def test_the_last_layer_of_the_lens_is_what_the_model_says(engine):
    ids = ids_of(engine, REPLY)
    scorer = ReplyScorer(engine.model, [1, *ids_of(engine, PROMPT)], ids)
    layers = scorer.lens(2, top=3)
    assert len(layers) == engine.model.config.n_layers
    own = torch.softmax(engine.model.logits(engine.model(scorer.ids[: scorer.prompt_length + 2].unsqueeze(0))[0, -1]), -1).topk(3)
    assert [i for i, _ in layers[-1]] == own.indices.tolist()
    assert [p for _, p in layers[-1]] == pytest.approx(own.values.tolist(), abs=1e-5)


def test_learned_attention_is_the_weighted_sum_of_what_the_heads_took(engine):
    scorer = ReplyScorer(engine.model, [1, *ids_of(engine, PROMPT)], ids_of(engine, REPLY))
    c = engine.model.config
    pieces = [engine.tokenizer.bytes_of(i) for i in ids_of(engine, REPLY)]
    weights, lengths, pulls = scorer.listening(range(scorer.reply_length))
    assert torch.allclose(weights, scorer.attention(scorer.prompt_length - 1), atol=1e-6)
    assert pulls.shape == (c.n_layers, c.n_kv_heads, weights.shape[-1]) and lengths.shape == (c.n_layers, c.n_heads, weights.shape[-1])
    size = c.n_layers * (c.n_heads + c.n_kv_heads)
    theta = torch.zeros(3 * size)
    theta[c.n_heads + 2], theta[size - 1] = 3.0, -2.0  # one head of the second layer, the last key-value head of the last
    theta[2 * size - 1], theta[2 * size + c.n_heads + 2] = 0.5, -0.7  # roots of the second, and roots of roots of the first
    a = explain(engine, scorer, pieces, method="learned-attention", coefficients=theta)
    took, pulled = weights[1, 2].sum(0) * lengths[1, 2], pulls[-1, -1]
    expected = 3.0 * took - 2.0 * pulled + 0.5 * pulled.sign() * pulled.abs().sqrt() - 0.7 * took**0.25
    assert a.totals[1:6] == pytest.approx(expected[1:6].tolist(), abs=1e-4) and len(a.scores) == 1
    with pytest.raises(ValueError, match=f"coefficients are 2, this model needs {len(theta)}"):
        explain(engine, scorer, pieces, method="learned-attention", coefficients=torch.zeros(1, 2))


def test_what_a_value_vector_pulls_is_the_change_when_it_grows(engine):
    """Stretching the value vectors of one position in one layer by 1 + ε changes the reply by ε times their pull."""
    scorer = ReplyScorer(engine.model, [1, *ids_of(engine, PROMPT)], ids_of(engine, REPLY))
    rows, position, layer, epsilon = [0, 2], 3, 1, 1e-3

    class Stretched:
        def __init__(self, by):
            self.by = by

        def update(self, at, k, v):
            v = v.clone()
            if at == layer:
                v[:, 0, position] *= 1 + self.by
            return k, v

    def total(by):
        with torch.no_grad():
            hidden = engine.model(scorer.ids[:-1].unsqueeze(0), cache=Stretched(by))[0, scorer.prompt_length - 1 :]
            picked = engine.model.logits(hidden).log_softmax(-1).gather(-1, scorer.ids[scorer.prompt_length :].unsqueeze(-1))
            return float(picked[rows].sum())

    pull = float(scorer.listening(rows)[2][layer, 0, position])
    assert (total(epsilon) - total(-epsilon)) / (2 * epsilon) == pytest.approx(pull, rel=0.05, abs=2e-3)


def test_the_first_method_is_the_faithful_default():
    assert next(iter(METHODS)) == "balanced-ablation"
