"""Devices: on one that does not exist every tensor is where it belongs; on one that does the numbers are the processor's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from assistant.lm import weights
from assistant.lm.decode import EAGER, Decoder
from assistant.lm.directory import Directory
from assistant.lm.engine import Engine
from assistant.lm.graphs import GraphDecoder
from assistant.lm.kv_cache import KVCache, Store
from assistant.turn import Sampling
from tests.tiny_families import write_folder

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def placed(*families):
    """What `tests/fake_device.py` says of them."""
    done = subprocess.run([sys.executable, "-m", "tests.fake_device", *families], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_every_tensor_follows_the_model_to_its_device():
    """One family for each decoder and each kind of positions; a tensor that was left behind on purpose is found."""
    families = ("qwen3", "gemma3", "gpt2")
    assert placed(*families) == [f"{what} {family}" for family in families for what in ("placed", "found")]


@pytest.mark.slow
def test_every_tensor_of_every_family_follows_the_model():
    assert len(placed()) == 12


@pytest.fixture
def accelerator():
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    pytest.skip("there is no CUDA or MPS device here")


@pytest.mark.gpu
def test_the_device_computes_what_the_processor_does(accelerator, tiny_model):
    here, there = (Engine.load(tiny_model, device=device, dtype="float32") for device in ("cpu", accelerator))
    ids = here.tokenizer.encode("the quick brown fox")
    ours, theirs = (e.model.logits(e.model(torch.tensor([ids], device=e.device))).cpu() for e in (here, there))
    assert torch.allclose(ours, theirs, atol=1e-3)
    replies = [[t.id for t in e.generate(e.render_raw("a b c"), Sampling(temperature=0, max_tokens=8))] for e in (here, there)]
    assert replies[0] == replies[1]
    batch = next(iter(there.generate_batch([there.render_raw("a b c")], [Sampling(temperature=0, max_tokens=8)])))
    assert [t.id for t in batch.tokens] == replies[1]


@pytest.mark.gpu
def test_recorded_graphs_write_what_single_calls_write(accelerator, tiny_model, monkeypatch):
    if accelerator != "cuda":
        pytest.skip("graphs are CUDA's")
    recorded = Engine.load(tiny_model, device="cuda", dtype="float32", context_length=2048)
    monkeypatch.setenv(EAGER, "1")
    single = Engine.load(tiny_model, device="cuda", dtype="float32", context_length=2048)
    assert isinstance(recorded._decoder, GraphDecoder) and not isinstance(single._decoder, GraphDecoder)
    sampling = Sampling(temperature=0, max_tokens=400)  # the cache grows on the way
    replies = [[t.id for t in e.generate(e.render_raw("a b c"), sampling)] for e in (recorded, single)]
    assert replies[0] == replies[1] and recorded._decoder.records and recorded._decoder.graph is not None


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3", "mistral"])
def test_fixed_shapes_compute_what_growing_ones_do(family, tmp_path):
    """What a CUDA graph records, on the processor: windows, a cache that grows, and places that were written and forgotten."""
    write_folder(family, tmp_path)
    source = Directory(tmp_path)
    model = weights.load(source, source.config(), torch.float32, CPU)[0]
    caches = KVCache(model.config, 60, CPU), KVCache(model.config, 60, CPU)
    for cache in caches:
        cache.store = Store.allocate(model.config, 16, CPU)
    usual, fixed = Decoder(model, None, caches[0]), GraphDecoder(model, None, caches[1])
    ids = torch.randint(0, 200, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    for token in [*ids, None, *reversed(ids[:20])]:
        if token is None:
            for cache in caches:
                cache.keep_prefix(ids[:10])
            continue
        expected = usual(token)
        at = caches[1].length
        caches[1].reserve(at + 1)
        fixed.token.fill_(token)
        fixed.at.fill_(at)
        logits, hidden = fixed.fixed()
        caches[1].advance([token])
        assert (logits - expected).abs().max() < 1e-4 and (hidden - usual.state).abs().max() < 1e-4


def test_a_device_that_takes_no_graph_is_written_on_call_by_call(tiny_model, monkeypatch):
    def refused(self):
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = Engine.load(tiny_model, device="cpu", dtype="float32")
    expected = [t.id for t in engine.generate(engine.render_raw("a b c"), Sampling(temperature=0, max_tokens=8))]
    other = Engine.load(tiny_model, device="cpu", dtype="float32")
    other._decoder = GraphDecoder(other.model, None, other.cache)
    other._decoder.records, other.speculator = True, None
    monkeypatch.setattr(GraphDecoder, "_record", refused)
    with pytest.warns(UserWarning, match="takes no CUDA graph"):
        assert [t.id for t in other.generate(other.render_raw("a b c"), Sampling(temperature=0, max_tokens=8))] == expected
    assert not other._decoder.records
