"""Every family, from a folder: the logits are transformers' own, however they are computed; saved again they are the same."""

import pytest
import torch

from assistant.lm import weights
from assistant.lm.decode import decoder
from assistant.lm.directory import Directory
from assistant.lm.engine import Engine
from assistant.lm.kv_cache import KVCache
from assistant.lm.saving import save
from assistant.lm.scoring import ReplyScorer
from assistant.turn import Sampling
from tests.tiny_families import FAMILIES, VOCABULARY, write_folder

CPU = torch.device("cpu")
IDS = torch.randint(0, VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(name, folder, transformers' model, our config, our model)."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = write_folder(request.param, folder)
    source = Directory(folder)
    config = source.config()
    return request.param, folder, theirs, config, weights.load(source, config, torch.float32, CPU, pack=False)[0]


@torch.inference_mode()
def test_logits_equal_transformers(family):
    _, _, theirs, _, ours = family
    assert (ours.logits(ours(IDS)) - theirs(IDS).logits).abs().max() < 1e-4


@torch.inference_mode()
def test_the_cache_and_the_decoder_change_nothing(family):
    _, _, _, config, ours = family
    whole, cache = ours.logits(ours(IDS[:1]))[0], KVCache(config, 64, CPU)
    hidden = ours(IDS[:1, :12], cache=cache)
    cache.advance(IDS[0, :12].tolist())
    decode = decoder(ours, None, cache)
    steps = torch.stack([ours.logits(hidden[0, -1]), *(decode(int(i)) for i in IDS[0, 12:])])
    assert (steps - whole[11:]).abs().max() < 1e-4


@torch.inference_mode()
def test_leaving_tokens_out_equals_a_text_without_them(family):
    """What explanations rest on: hidden keys with the gap closed give what the shorter text gives, windows included."""
    _, _, _, _, ours = family
    prompt, reply = IDS[0, :20].tolist(), IDS[0, 20:26].tolist()
    keep = torch.ones(2, 20, dtype=torch.bool)
    keep[1, [4, 5, 11]] = False
    got = ReplyScorer(ours, prompt, reply).log_probs(keep)
    shorter = [t for i, t in enumerate(prompt) if keep[1, i]]
    assert torch.allclose(got[1], ReplyScorer(ours, shorter, reply).log_probs(torch.ones(1, 17, dtype=torch.bool))[0], atol=1e-4)


def test_gradients_reach_the_embedding(family):
    _, _, theirs, config, ours = family
    vectors = ours.embedding(IDS[:1, :20]).clone().requires_grad_(True)
    ours.logits(ours(embeddings=vectors))[0, -1, 3].backward()
    scale = config.embedding_scale
    other = (ours.embedding(IDS[:1, :20]) * scale).clone().requires_grad_(True)
    theirs(inputs_embeds=other).logits[0, -1, 3].backward()
    assert torch.allclose(vectors.grad, other.grad * scale, atol=1e-4)


@torch.inference_mode()
def test_saved_again_it_is_the_same_model(family, tmp_path):
    from transformers import AutoModelForCausalLM

    _, folder, theirs, config, ours = family
    save(ours, Directory(folder).tokenizer(), tmp_path / "copy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32, attn_implementation="eager").eval()
    expected = theirs(IDS).logits
    assert (again(IDS).logits - expected).abs().max() < 1e-4
    source = Directory(tmp_path / "copy")
    assert source.config() == config
    copy = weights.load(source, config, torch.float32, CPU, pack=False)[0]
    assert torch.equal(copy.logits(copy(IDS)), ours.logits(ours(IDS)))


def test_the_engine_writes_what_transformers_would(family):
    """Greedy, through prefill in chunks, cache and decoder: the likeliest token of the plain model, each time."""
    _, folder, theirs, _, _ = family
    engine = Engine.load(folder, dtype="float32", thread_count=1)
    assert engine.device.type == "cpu" and len(engine.info.sha256) == 64
    ids = engine.tokenizer.encode("The window is smaller than this text.")
    generation = engine.generate_ids(ids, Sampling(temperature=0, repetition_penalty=1.0, max_tokens=6), eos=frozenset())
    for token in generation:
        with torch.inference_mode():
            logits = theirs(torch.tensor([ids])).logits[0, -1]
        assert logits[token.id] > logits.max() - 1e-3
        ids = [*ids, token.id]
