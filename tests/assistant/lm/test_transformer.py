"""The model's arithmetic: dense, cached, token by token, batched and packed all say the same. (Every family: test_families.py.)"""

import copy

import pytest
import torch

from assistant.lm import prefill, weights
from assistant.lm.decode import EAGER, Decoder, Step
from assistant.lm.gguf_source import GGUFSource
from assistant.lm.kv_cache import KVCache
from assistant.lm.transformer import Config, Transformer
from tests.tiny import write_tiny_model

CPU = torch.device("cpu")


def load(path, dtype=torch.float32, pack=False):
    source = GGUFSource(path)
    config = source.config()
    return config, *weights.load(source, config, dtype, CPU, pack=pack)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def tiny(request, tmp_path_factory):
    return load(write_tiny_model(tmp_path_factory.mktemp("m") / "m.gguf", arch=request.param))


@torch.inference_mode()
def test_the_cache_changes_nothing(tiny):
    config, model, _ = tiny
    ids = torch.randint(0, config.vocab_size, (1, 20))
    whole = model.logits(model(ids))[0]
    cache = KVCache(config, 64, CPU)
    hidden = model(ids[:, :12], cache=cache)
    cache.advance(ids[0, :12].tolist())
    decode = Decoder(model, None, cache)
    steps = torch.stack([model.logits(hidden[0, -1]), *(decode(int(i)) for i in ids[0, 12:])])
    assert (steps - whole[11:]).abs().max() < 1e-4


@torch.inference_mode()
def test_reading_a_prompt_feature_by_feature_equals_the_dense_model(tiny):
    config, model, _ = tiny
    ids = torch.randint(0, config.vocab_size, (1, 20))
    whole, caches = model(ids)[0], [KVCache(config, 64, CPU), KVCache(config, 64, CPU)]
    model(ids, cache=caches[0])
    assert (prefill.read(model, ids[0, :12], caches[1]) - whole[11]).abs().max() < 1e-4
    caches[1].advance(ids[0, :12].tolist())
    mask = (torch.arange(20) <= torch.arange(12, 20).unsqueeze(1)).view(1, 1, 8, 20)
    assert (prefill.read(model, ids[0, 12:], caches[1], mask) - whole[-1]).abs().max() < 1e-4
    for one, other in zip(caches[0].store.first(20), caches[1].store.first(20), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert prefill.reader(model, columns=True) is prefill.read and prefill.reader(model, columns=False) is None
    with torch.device("meta"):
        assert prefill.reader(Transformer(config), columns=True) is None


@torch.inference_mode()
@pytest.mark.parametrize("rest", [{}, {"qk_norm": True}, {"qkv_bias": True}])
def test_reading_a_prompt_in_bfloat16_is_as_near_the_exact_model_as_the_dense_way(rest):
    torch.manual_seed(0)
    config = Config(96, 64, 3, 4, 2, 96, 64, **rest)
    exact = Transformer(config)
    for parameter in exact.parameters():
        parameter.copy_(0.1 * torch.randn_like(parameter) if parameter.dim() > 1 else 1 + 0.1 * torch.randn_like(parameter))
    halves = copy.deepcopy(exact)
    halves.blocks.bfloat16()
    ids = torch.randint(0, config.vocab_size, (20,))
    dense, cache = KVCache(config, 64, CPU), KVCache(config, 64, CPU)
    read = prefill.reader(halves, columns=False)
    assert read is prefill.read
    read(halves, ids[:12], cache)
    cache.advance(ids[:12].tolist())
    last = read(halves, ids[12:], cache, (torch.arange(20) <= torch.arange(12, 20).unsqueeze(1)).view(1, 1, 8, 20))
    wanted, other = exact(ids.unsqueeze(0))[0, -1], halves(ids.unsqueeze(0), cache=dense)[0, -1]
    assert 0 < (last - wanted).norm() < 2 * (other - wanted).norm()
    for one, two in zip(dense.store.first(20), cache.store.first(20), strict=True):
        assert torch.allclose(one, two, atol=0.1)


@torch.inference_mode()
def test_the_traced_step_gives_the_bits_of_plain_python(tiny, monkeypatch):
    config, model, packed = tiny
    decoders = []
    for plain in ("", "1"):
        monkeypatch.setenv(EAGER, plain)
        decoders.append(Decoder(model, packed, KVCache(config, 64, CPU)))
    assert isinstance(decoders[1].run, Step) and not isinstance(decoders[0].run, Step)
    for token in (3, 7, 7, 1):
        assert torch.equal(decoders[0](token), decoders[1](token))


def test_without_torchscript_the_plain_step_runs(tiny, monkeypatch):
    config, model, _ = tiny

    def gone(*args, **kwargs):
        raise RuntimeError("torch.jit.trace is not supported in Python 3.14+")

    monkeypatch.setattr(torch.jit, "trace", gone)
    decoder = Decoder(model, None, KVCache(config, 64, CPU))
    assert decoder.run is decoder.step and torch.isfinite(decoder(1)).all()


@torch.inference_mode()
def test_a_position_never_sees_what_comes_after(tiny):
    config, model, _ = tiny
    ids = torch.randint(0, config.vocab_size, (1, 16))
    changed = ids.clone()
    changed[0, 10:] = 0
    assert torch.allclose(model(ids)[0, :10], model(changed)[0, :10], atol=1e-5)


def test_gradients_reach_the_embedding(tiny):
    config, model, _ = tiny
    embeddings = torch.randn(1, 5, config.width, requires_grad=True)
    model.logits(model(embeddings=embeddings)).sum().backward()
    assert torch.isfinite(embeddings.grad).all() and embeddings.grad.abs().sum() > 0


def test_the_cache_keeps_the_common_beginning_only():
    config = Config(10, 8, 1, 2, 1, 8, 64)
    cache = KVCache(config, 64, CPU)
    cache.advance([1, 2, 3, 4])
    assert cache.keep_prefix([1, 2, 9, 9]) == 2 and cache.ids == [1, 2]
    cache.advance([3])
    assert cache.keep_prefix([1, 2, 3]) == 2  # the last id is always read again: its logits are wanted
    with pytest.raises(ValueError, match="do not fit"):
        cache.reserve(65)


@pytest.mark.parametrize(
    "numbers",
    [dict(n_heads=3), dict(width=0), dict(n_kv_heads=3), dict(head_width=3), dict(context_length=0), dict(head_width=-2), dict(width=1)],
)
def test_impossible_sizes_are_refused(numbers):
    with pytest.raises(ValueError):
        Config(**{**dict(vocab_size=10, width=8, n_layers=1, n_heads=2, n_kv_heads=2, ffn_width=8, context_length=8), **numbers})


@pytest.mark.model
@torch.inference_mode()
def test_logits_equal_transformers_on_the_default_model(default_model, default_engine):
    """The same GGUF file, read by `transformers`' own code: max |Δ| < 1e-3 in float32 over 128 positions."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(default_model.parent, gguf_file=default_model.name, dtype=torch.float32).eval()
    text = "The Transformer replaced recurrence by attention. 今天天气很好，我们去公园散步。 def f(x): return x ** 2\n" * 3
    ids = torch.tensor([default_engine.tokenizer.encode(text)[:128]])
    assert ids.shape[1] == 128
    expected, got = reference(ids).logits, default_engine.model.logits(default_engine.model(ids))
    assert (got - expected).abs().max() < 1e-3
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@pytest.mark.model
@torch.inference_mode()
def test_int4_decoding_stays_close_to_float32(default_model, default_engine, monkeypatch):
    config, model, packed = load(default_model, pack=True)
    ids = default_engine.tokenizer.encode("Paris is the capital of France. The sky is blue because air scatters light. 今天天气很好。")
    exact = default_engine.model.logits(default_engine.model(torch.tensor([ids])))[0].log_softmax(-1)
    cache = KVCache(config, 128, CPU)
    decode = Decoder(model, packed, cache)
    logits = torch.stack([decode(i) for i in ids])
    monkeypatch.setenv(EAGER, "1")
    plain = Decoder(model, packed, KVCache(config, 128, CPU))
    assert torch.equal(logits, torch.stack([plain(i) for i in ids]))
    ours = logits.log_softmax(-1)
    divergence = (exact.exp() * (exact - ours)).sum(-1).mean()
    assert divergence < 0.003
    assert (ours.argmax(-1) == exact.argmax(-1)).float().mean() > 0.9
