"""Every family, from a folder and from GGUF: the logits are transformers' own, however they are computed; saved again they are the same."""

import pytest
import torch

from assistant.lm import weights
from assistant.lm.decode import DenseDecoder, decoder
from assistant.lm.directory import Directory
from assistant.lm.engine import Engine
from assistant.lm.gguf_source import GGUFSource
from assistant.lm.kv_cache import KVCache
from assistant.lm.saving import save
from assistant.lm.scoring import ReplyScorer
from assistant.lm.transformer import attend
from assistant.turn import Sampling
from tests.tiny_families import ARCHITECTURES, FAMILIES, VOCABULARY, write_folder, write_gguf

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
    assert isinstance(decode, DenseDecoder) == (config.layer_norm or config.attention_softcap > 0)
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
def test_the_attention_weights_are_those_of_transformers(family):
    _, _, theirs, _, ours = family
    seen = ReplyScorer(ours, IDS[0, :20].tolist(), IDS[0, 20:].tolist()).attention()
    expected = torch.cat(theirs(IDS[:1, :-1], output_attentions=True).attentions)
    assert torch.allclose(seen, expected, atol=1e-4)


@torch.inference_mode()
def test_a_cap_on_the_scores_is_what_its_formula_says():
    q, k, v = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    scores = 3 * torch.tanh(q @ k.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5 / 3)
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    assert torch.allclose(attend(q, k, v, None, 3.0), scores.softmax(-1) @ v.repeat_interleave(2, 1), atol=1e-5)
    assert torch.allclose(attend(q, k, v, None, 1e6), attend(q, k, v, None), atol=1e-4)


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


@pytest.fixture(scope="module", params=ARCHITECTURES)
def in_gguf(request, tmp_path_factory):
    """(the family's model from its folder, the same as a GGUF file)."""
    folder = tmp_path_factory.mktemp(request.param)
    numbers = FAMILIES[request.param][1]
    if request.param == "gemma3":  # what the file cannot say: every sixth layer is global, 10,000 its local base, no scaled query
        full, sliding = dict(rope_type="default", rope_theta=500.0), dict(rope_type="default", rope_theta=10_000.0)
        numbers = numbers | dict(
            num_hidden_layers=6, query_pre_attn_scalar=16, rope_parameters=dict(full_attention=full, sliding_attention=sliding),
            layer_types=["sliding_attention"] * 5 + ["full_attention"],
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, request.param, (FAMILIES[request.param][0], numbers))
        write_folder(request.param, folder)
    source = Directory(folder)
    write_gguf(request.param, source, folder / "model.gguf")
    ours = weights.load(source, source.config(), torch.float32, CPU, pack=False)[0]
    return ours, GGUFSource(folder / "model.gguf")


@torch.inference_mode()
def test_the_gguf_file_of_a_family_is_the_same_model(in_gguf):
    expected, source = in_gguf
    ours = weights.load(source, source.config(), torch.float32, CPU, pack=False)[0]
    assert (ours.logits(ours(IDS)) - expected.logits(expected(IDS))).abs().max() < 1e-4
    assert source.tokenizer().size == VOCABULARY


@torch.inference_mode()
def test_llama_cpp_computes_the_same_from_the_gguf_file(in_gguf):
    """Our reading of the format is not only our own. (llama.cpp knows no window in Llama files and keeps its cache in float16.)"""
    llama_cpp = pytest.importorskip("llama_cpp")
    ours, source = in_gguf
    if ours.config.windowed and source.arch == "llama":
        pytest.skip("llama.cpp ignores the window of a Llama file")
    theirs = llama_cpp.Llama(str(source.path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    theirs.eval(IDS[0].tolist())
    got = torch.tensor(theirs.scores[: IDS.shape[1]])
    expected = ours.logits(ours(IDS[:1]))[0]
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()
