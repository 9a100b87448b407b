"""Devices: on one that does not exist every tensor is where it belongs; on one that does the numbers are the processor's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from assistant.lm.engine import Engine
from assistant.turn import Sampling

ROOT = Path(__file__).parents[3]


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
