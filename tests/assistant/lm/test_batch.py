"""Many replies at once are the replies one by one; quantised weights compute what their formulas say, in every way through the model."""

import threading

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type

from assistant.lm import gguf, quantize, weights
from assistant.lm.batch import SlotCache
from assistant.lm.config import Config
from assistant.lm.decode import decoder
from assistant.lm.engine import Engine
from assistant.lm.gguf_source import GGUFSource
from assistant.lm.kv_cache import KVCache
from assistant.lm.packed_linear import Int8Linear, packed_view
from assistant.turn import Message, Sampling
from tests.tiny import tiny_parts, write_tiny_model
from tests.tiny_families import write_folder

CPU = torch.device("cpu")
TEXTS = ["one", "a much longer prompt than the others are", "", "今天", "one two", "x"]


def write_quantised(path, kind, arch="qwen2"):
    """The tiny model with its blocks' matrices as Q4_0 or Q4_1."""
    metadata, tensors = tiny_parts(arch=arch, width=64, ffn=96, **{"tokenizer.ggml.eos_token_id": 2})
    raw = {n: t for n, t in tensors.items() if t.ndim == 2 and n.startswith("blk.")}
    packed = {n: quantize.quants.quantize(t, kind) for n, t in raw.items()}
    gguf.write(path, metadata, tensors | packed, {n: kind for n in packed})
    return path


@pytest.fixture(scope="module", params=["llama", "int4", "int8", "mistral", "gpt2"])
def engine(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "int4":
        return Engine.load(write_quantised(folder / "m.gguf", Type.Q4_1), dtype="int4", thread_count=1)
    if request.param in ("mistral", "gpt2"):
        write_folder(request.param, folder)
        return Engine.load(folder, dtype="float32", thread_count=1)
    dtype = "int8" if request.param == "int8" else "float32"
    return Engine.load(write_tiny_model(folder / "m.gguf"), dtype=dtype, thread_count=1)


def one_by_one(engine, prompts, samplings):
    for prompt, sampling in zip(prompts, samplings, strict=True):
        generation = engine.generate(prompt, sampling)
        tokens = list(generation)
        yield [t.id for t in tokens], "".join(t.text for t in tokens), generation.finish


def test_a_batch_gives_the_replies_one_by_one(engine):
    prompts = [engine.render_raw("The " + text) for text in TEXTS]
    samplings = [Sampling(temperature=0.8, seed=i, max_tokens=3 + 5 * (i % 3), stop=("q",)) for i in range(len(TEXTS))]
    expected = list(one_by_one(engine, prompts, samplings))
    replies = sorted(engine.generate_batch(prompts, samplings, slots=3), key=lambda reply: reply.index)
    assert [([t.id for t in r.tokens], r.text, r.finish) for r in replies] == expected
    assert len({len(r.tokens) for r in replies}) > 1


def test_a_batch_ends_when_it_is_cancelled_and_starts_with_nothing(engine):
    assert list(engine.generate_batch([], [])) == []
    cancel = threading.Event()
    cancel.set()
    assert list(engine.generate_batch([engine.render_raw("a")], [Sampling(temperature=0)], cancel=cancel)) == []


def test_rows_that_end_leave_and_the_last_takes_their_place():
    config = Config(10, 8, 1, 2, 1, 8, 64)
    slots = SlotCache(config, 3, 8, CPU)
    for length in (1, 2, 3):
        cache = KVCache(config, 8, CPU)
        for kept in cache.store.first(length):
            kept.fill_(length)
        cache.advance(range(length))
        slots.add(cache)
    slots.remove(0)
    assert slots.lengths == [3, 2] and slots.store.keys[0, 0, 0, 0, :4].tolist() == slots.store.values[0, 0, 0, :4, 0].tolist() == [
        3,
        3,
        3,
        0,
    ]
    positions, mask = slots.begin()
    assert positions.tolist() == [[3], [2]] and mask[1, 0, 0].tolist() == [True, True, True, False]


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1])
@torch.inference_mode()
def test_int4_with_a_bias_equals_the_dense_model(tmp_path, kind):
    source = GGUFSource(write_quantised(tmp_path / "m.gguf", kind))
    config = source.config()
    assert config.qkv_bias and weights.packable(source, config)
    model, packed = weights.load(source, config, torch.float32, CPU, pack=True)
    ids = torch.randint(0, config.vocab_size, (2, 9))
    dense, view = model(ids), packed_view(model, packed)(ids)
    assert (dense - view).abs().max() < 0.05 * dense.abs().max() and not torch.equal(dense, view)


@torch.inference_mode()
def test_what_is_stored_otherwise_stays_dense(tmp_path):
    metadata, tensors = tiny_parts(width=64, ffn=96)
    kinds = {n: Type.Q8_0 if "ffn_down" in n else Type.Q4_1 for n in tensors if n.startswith("blk.") and tensors[n].ndim == 2}
    rows = {n: quantize.quants.quantize(tensors[n], kind) for n, kind in kinds.items()}
    gguf.write(tmp_path / "m.gguf", metadata, tensors | rows, kinds)
    source = GGUFSource(tmp_path / "m.gguf")
    config = source.config()
    assert weights.packable(source, config)
    model, packed = weights.load(source, config, torch.float32, CPU, pack=True)
    assert packed[0].down is None and packed[0].qkv is not None
    ids = list(range(8))
    dense = model(torch.tensor([ids]))
    assert (dense - packed_view(model, packed)(torch.tensor([ids]))).abs().max() < 0.05 * dense.abs().max()
    decode = decoder(model, packed, KVCache(config, 16, CPU))
    steps = torch.stack([decode(i) for i in ids])
    assert (steps - model.logits(dense)[0]).abs().max() < 0.05 * model.logits(dense).abs().max()


def test_int8_rounds_each_row_to_255_steps_and_passes_gradients():
    dense = torch.randn(48, 32) * torch.logspace(-3, 0, 48).unsqueeze(1)
    layer, bias = Int8Linear(dense, None), Int8Linear(dense, torch.ones(48))
    rounded = layer.weight.float() * layer.scales.float().unsqueeze(1)
    assert ((rounded - dense).abs() <= 0.01 * dense.abs().amax(1, keepdim=True)).all()
    x = torch.randn(3, 5, 32, requires_grad=True)
    y = layer(x)
    assert y.shape == (3, 5, 48) and torch.allclose(bias(x), y + 1)
    assert (y - x @ rounded.T).abs().max() < 0.05
    y.sum().backward()
    assert torch.allclose(x.grad, rounded.sum(0).expand_as(x), atol=1e-5)


def test_int8_keeps_no_dense_copy_and_stays_close(tiny_model):
    exact, eight = (Engine.load(tiny_model, dtype=dtype, thread_count=1) for dtype in ("float32", "int8"))
    assert all(isinstance(block.qkv, Int8Linear) and isinstance(block.down, Int8Linear) for block in eight.model.blocks)
    ids = exact.tokenizer.encode("the quick brown fox")
    one, other = (engine.model.logits(engine.model(torch.tensor([ids]))).log_softmax(-1) for engine in (exact, eight))
    assert (one.exp() * (one - other)).sum(-1).mean() < 0.02
    assert np.isfinite([t.logprob for t in eight.generate(eight.render_raw("a"), Sampling(temperature=0, max_tokens=3))]).all()


@pytest.mark.model
def test_the_default_model_writes_the_same_in_a_batch(default_model):
    engine = Engine.load(default_model, dtype="int4")
    questions = ["What is rain?", "Name a colour.", "Why do cats purr?", "What is 2 + 2?"]
    prompts = [engine.render([Message("user", question)], reserve=16) for question in questions]
    samplings = [Sampling(seed=i, max_tokens=12) for i in range(len(prompts))]
    expected = list(one_by_one(engine, prompts, samplings))
    replies = sorted(engine.generate_batch(prompts, samplings, slots=3), key=lambda reply: reply.index)
    assert [([t.id for t in r.tokens], r.text, r.finish) for r in replies] == expected
