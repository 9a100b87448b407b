"""Vocabularies with scores: joined as SentencePiece joins them, on Gemma's as llama.cpp does; no text is a control token."""

import itertools
import json
import random
from pathlib import Path

import pytest

from assistant.errors import ModelError
from assistant.lm import catalog
from assistant.lm.gguf import GGUFFile
from assistant.lm.sentencepiece import SPACE
from assistant.lm.tokenizer import ByteTokenizer, StreamDecoder
from tests.tiny import write_tiny_model

FIXTURES = Path(__file__).parent / "fixtures"
WORDS = [
    "a",
    "b",
    "c",
    "h",
    "e",
    "l",
    "o",
    SPACE,
    "ab",
    "bc",
    "abc",
    "he",
    "ll",
    "hell",
    "hello",
    SPACE + "he",
    SPACE + "hello",
    "天",
    "天气",
    "气",
]
CONTROL = ["<unk>", "<bos>", "<eos>"]
SPECIAL = ["\n\n", "<table>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
VOCABULARY = [*CONTROL, *SPECIAL, *BYTES, *WORDS, *"<>os"[:1]]
RNG = random.Random(5)
SCORES = [0.0] * (len(VOCABULARY) - len(WORDS) - 1) + [-float(x) for x in RNG.sample(range(1000), len(WORDS) + 1)]
METADATA = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": None, "tokenizer.ggml.merges": None, "tokenizer.ggml.tokens": VOCABULARY,
    "tokenizer.ggml.scores": SCORES, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.ggml.token_type": [2, 3, 3, 4, 4] + [6] * 256 + [1] * (len(WORDS) + 1),
}  # fmt: skip


def tokenizer(path, **changes):
    return ByteTokenizer.from_gguf(GGUFFile(write_tiny_model(path / "m.gguf", **METADATA | changes)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("spm"))


def joined(text):
    """The definition: join the best neighbours, the leftmost of equals, until none are a token."""
    scores = {t: SCORES[i] for i, t in enumerate(VOCABULARY) if i >= 5 + 256}
    parts = list(text.replace(" ", SPACE))
    while True:
        found = [(scores[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in scores]
        if not found:
            return [x for p in parts for x in ([p] if p in scores else [f"<0x{b:02X}>" for b in p.encode()])]
        at = -max(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_neighbours_are_joined_by_their_scores(tiny):
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choice("abchelo 天气é") for _ in range(rng.randint(0, 14)))
        ids = tiny.encode(text)
        assert [VOCABULARY[i] for i in ids] == joined(text), text
        assert tiny.decode(ids) == text


def test_user_defined_tokens_are_found_first_and_control_tokens_never(tiny):
    assert tiny.encode("\n\n") == [3] and tiny.encode("a<table>") == [VOCABULARY.index("a"), 4]
    for text in ("<eos>", "<bos>hello<eos>", "<unk>", "<0x0A>"):
        ids = tiny.encode(text)
        assert not set(ids) & tiny.control and tiny.decode(ids) == text


def test_a_stream_joins_bytes_to_characters(tiny):
    stream = StreamDecoder(tiny)
    assert "".join(stream.feed(i) for i in tiny.encode("a 👍🏽 é 天气")) + stream.finish() == "a 👍🏽 é 天气"


def test_a_vocabulary_may_want_a_space_before_every_text(tmp_path):
    prefixed = tokenizer(tmp_path, **{"tokenizer.ggml.add_space_prefix": True})
    assert [VOCABULARY[i] for i in prefixed.encode("hello")] == joined(" hello")
    assert prefixed.encode("") == []


@pytest.mark.parametrize("scores", [[0.0], None, [float("nan")] * len(VOCABULARY)])
def test_damaged_scores_are_refused(tmp_path, scores):
    with pytest.raises(ModelError, match=r"scores of the vocabulary are damaged|missing"):
        tokenizer(tmp_path, **{"tokenizer.ggml.scores": scores})


@pytest.fixture(scope="module")
def gemma_file():
    """The Gemma file, where the person running the tests has accepted its terms and fetched it."""
    path = catalog.find("gemma3-270m").path
    if not path.exists():
        pytest.skip("gemma3-270m has not been fetched: a person must accept its terms")
    return path


@pytest.mark.model
def test_gemma_ids_equal_llama_cpp_on_varied_strings(gemma_file):
    """The strings of the default model's fixture; the ids are llama.cpp's on the Gemma file of the catalogue."""
    gemma = ByteTokenizer.from_gguf(GGUFFile(gemma_file))
    rows = json.loads((FIXTURES / "smollm2_tokens.json").read_text())["rows"]
    expected = json.loads((FIXTURES / "gemma3_tokens.json").read_text())["ids"]
    for (text, _), ids in zip(rows, expected, strict=True):
        assert gemma.encode(text) == ids, text
        assert gemma.decode(ids) == text
