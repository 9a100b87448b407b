"""The whole model on a device that does not exist: shapes and places are real, numbers are not. Run as `python -m tests.fake_device`.

torch lets a program register a device backend of its own; in `FakeTensorMode` its tensors have no memory, but every operation checks that
its inputs lie on one device. So a tensor that was left on the processor is found on a machine without an accelerator. It proves where
things are, not what is computed, and nothing about an accelerator's kernels. Registering lasts as long as the process: hence a program.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from assistant.lm import batch, weights
from assistant.lm.decode import Decoder, decoder
from assistant.lm.directory import Directory
from assistant.lm.graphs import GraphDecoder
from assistant.lm.kv_cache import KVCache
from assistant.lm.scoring import ReplyScorer
from assistant.lm.transformer import Transformer
from tests.tiny_families import write_folder

FAMILIES = ("llama3", "mistral", "qwen2", "qwen3", "gemma3", "gpt2")


def move(model: Transformer, device: torch.device) -> None:
    """Give every parameter a fake twin on `device` (fake modules cannot be moved by `nn.Module.to`)."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device=device))
    model.rotary = model.rotary_local = torch.empty(0, device=device)


def exercise(model: Transformer, device: torch.device) -> None:
    """Reading, writing token by token and in a batch, gradients: all there is between ids and logits."""
    c = model.config
    ids = torch.randint(0, c.vocab_size, (2, 20), device=device)
    assert model.logits(model(ids)).device.type == device.type
    # a prompt in two pieces, then tokens one by one
    cache = KVCache(c, 64, device)
    model(ids[:1], cache=cache)
    cache.advance([0] * 20)
    positions = torch.arange(20, 24, device=device)
    mask = (torch.arange(24, device=device) <= positions.unsqueeze(1)).view(1, 1, 4, 24)
    model(ids[:1, :4], positions=positions.unsqueeze(0), mask=mask, cache=cache)
    cache.advance([0] * 4)
    decode = decoder(model, None, cache)
    assert decode(3).device.type == device.type
    if isinstance(decode, Decoder):
        assert not decode.step.complex  # the real form, which every device has
        assert GraphDecoder(model, None, cache).fixed()[0].device.type == device.type
    # a batch of rows of different lengths
    slots = batch.SlotCache(c, 2, 32, device)
    slots.add(cache)
    slots.add(cache)
    slots.lengths[1] = 9
    assert batch.step(decode, slots, [1, 2])[0].device.type == device.type
    slots.remove(0)
    # what explanations do
    scorer = ReplyScorer(model, [1, 2, 3, 4], [5, 6])
    vectors = model.embedding(scorer.prompt_ids.unsqueeze(0)).detach().requires_grad_(True)
    model.logits(model(embeddings=vectors)).sum().backward()
    assert vectors.grad is not None and vectors.grad.device.type == device.type
    scorer.log_probs_of(scorer.prompt_ids.unsqueeze(0))
    scorer.attention()


def main() -> None:
    _setup_privateuseone_for_python_backend("fakegpu")
    device = torch.device("fakegpu")
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(family, Path(folder))
            source = Directory(Path(folder))
            model = weights.load(source, source.config(), torch.float32, torch.device("cpu"))[0]
        with FakeTensorMode():
            move(model, device)
            exercise(model, device)
            print("placed", family)
            model.blocks[1].ffn_norm = nn.Parameter(torch.empty(model.config.width))  # one left behind must be found
            try:
                model(torch.zeros(1, 4, dtype=torch.long, device=device))
            except RuntimeError as error:
                assert "device" in str(error), error
                print("found", family)


if __name__ == "__main__":
    main()
