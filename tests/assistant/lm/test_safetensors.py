"""Safetensors files and model folders are hostile input: everything that is wrong is refused with a sentence, nothing is unpickled."""

import json
import pickle
import random
import struct

import pytest
import torch

from assistant.errors import ModelError
from assistant.lm import safetensors
from assistant.lm.directory import Directory
from assistant.lm.engine import Engine
from assistant.lm.safetensors import SafetensorsError, SafetensorsFile
from tests.tiny_families import write_folder


def file(header, data=b"\0" * 64, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": b"",
    "three bytes": b"abc",
    "header of 2^63": file({}, length=1 << 63),
    "header of 2^30": file({}, length=1 << 30),
    "header beyond the end": file({}, length=1000),
    "not JSON": file(b"{nonsense"),
    "not UTF-8": file(b'{"\xff": 1}'),
    "a list": file([1, 2]),
    "nested 100000 deep": file(b"[" * 100_000),
    "a number with a million digits": file(b'{"a": ' + b"9" * 1_000_000 + b"}"),
    "twice the same name": file(b'{"a": %s, "a": %s}' % ((json.dumps(tensor()).encode(),) * 2)),
    "metadata of numbers": file({"__metadata__": {"a": 1}}),
    "no description": file({"a": 7}),
    "no dtype": file({"a": {"shape": [4], "data_offsets": [0, 16]}}),
    "shape as text": file({"a": tensor() | {"shape": "4"}}),
    "negative shape": file({"a": tensor(shape=(-4,))}),
    "shape of booleans": file({"a": tensor() | {"shape": [True]}}),
    "overflowing shape": file({"a": tensor(shape=(1 << 39, 1 << 39, 1 << 39))}),
    "9 dimensions": file({"a": tensor(shape=(1,) * 9, offsets=(0, 4))}),
    "offsets beyond the end": file({"a": tensor(shape=(400,), offsets=(0, 1600))}),
    "offsets of 2^70": file({"a": tensor(offsets=(1 << 70, (1 << 70) + 16))}),
    "offsets the wrong way round": file({"a": tensor(offsets=(16, 0))}),
    "negative offsets": file({"a": tensor(offsets=(-16, 0))}),
    "three offsets": file({"a": tensor(offsets=(0, 16, 32))}),
    "fewer bytes than the shape": file({"a": tensor(offsets=(0, 8))}),
    "overlap": file({"a": tensor(), "b": tensor(offsets=(8, 24))}),
    "the same place": file({"a": tensor(), "b": tensor()}),
    "escape in a name": file({"\x1b]52;c;eA==\x07": tensor()}),
    "an endless name": file({"a" * 10_000: tensor()}),
    "a pickle": pickle.dumps({"a": 1}, protocol=2) + b"\0" * 64,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(SafetensorsError) as caught:
        SafetensorsFile(path)
    assert "model.safetensors" in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("dtype", safetensors.FLOATING)
def test_a_written_file_reads_back_and_the_library_reads_it_too(dtype, tmp_path):
    load_file = pytest.importorskip("safetensors.torch").load_file
    values = {"a": torch.randn(3, 5).to(safetensors.DTYPES[dtype]), "b.c": torch.zeros(0, 2), "d": torch.tensor(2.5)}
    safetensors.write(tmp_path / "m.safetensors", values, {"format": "pt"})
    mine, theirs = SafetensorsFile(tmp_path / "m.safetensors"), load_file(tmp_path / "m.safetensors")
    for name, value in values.items():
        assert torch.equal(mine.tensor(name), value.float()) and torch.equal(theirs[name], value)
    assert mine.metadata == {"format": "pt"} and not list(tmp_path.glob("*.part"))


def test_tensors_at_odd_places_and_of_other_types(tmp_path):
    path = tmp_path / "m.safetensors"
    floats = struct.pack("<4f", 1, 2, 3, 4)
    path.write_bytes(
        file({"a": tensor(offsets=(1, 17)), "i": tensor("I8", (1,), (0, 1)), "f8": tensor("F8_E4M3", (1,), (17, 18))}, b"x" + floats + b"y")
    )
    opened = SafetensorsFile(path)
    assert opened.tensor("a").tolist() == [1, 2, 3, 4]
    for name in ("i", "f8"):
        with pytest.raises(SafetensorsError, match="cannot be read"):
            opened.tensor(name)
    with pytest.raises(SafetensorsError, match="no tensor"):
        opened.tensor("b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    write_folder("qwen3", path, max_shard_size="20KB")
    return path


@pytest.fixture
def copy(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_shards_are_found_and_the_identity_covers_every_file(folder, copy):
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert Directory(folder).sha256() == Directory(copy).sha256()
    edit(copy / "tokenizer_config.json", more=1)
    assert Directory(folder).sha256() != Directory(copy).sha256()


def shard(copy):
    return sorted(copy.glob("*.safetensors"))[0]


INDEX = "model.safetensors.index.json"
DAMAGE = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), "is not JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "is not a table"),
    "unknown family": (lambda d: edit(d / "config.json", model_type="mamba"), "'mamba', which is not supported"),
    "no width": (lambda d: edit(d / "config.json", hidden_size=None), "does not say hidden_size"),
    "width as text": (lambda d: edit(d / "config.json", hidden_size="32"), "impossible model"),
    "another width": (lambda d: edit(d / "config.json", hidden_size=64), "has shape"),
    "no heads": (lambda d: edit(d / "config.json", num_attention_heads=0), "impossible model"),
    "more layers than there are": (lambda d: edit(d / "config.json", num_hidden_layers=3, layer_types=None), "no tensor model.layers.2"),
    "a billion layers": (lambda d: edit(d / "config.json", num_hidden_layers=10**9, layer_types=None), "more than any model has"),
    "a trillion tokens": (lambda d: edit(d / "config.json", vocab_size=10**12), "more than any model has"),
    "a trillion heads": (lambda d: edit(d / "config.json", num_attention_heads=10**12), "impossible model|has shape"),
    "an endless number": (lambda d: edit(d / "config.json", rms_norm_eps=float("inf")), "impossible model"),
    "an unknown activation": (lambda d: edit(d / "config.json", hidden_act="relu6"), "not supported"),
    "an unknown scaling": (
        lambda d: edit(d / "config.json", rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}), "not supported",
    ),
    "a scaling without its factor": (lambda d: edit(d / "config.json", rope_parameters={"rope_type": "linear"}), "impossible model"),
    "quantised weights": (lambda d: edit(d / "config.json", quantization_config={"quant_method": "awq"}), "not supported"),
    "part of a head turned": (lambda d: edit(d / "config.json", partial_rotary_factor=0.5), "not supported"),
    "a shard is missing": (lambda d: shard(d).unlink(), "is missing"),
    "a shard elsewhere": (lambda d: edit(d / INDEX, weight_map={"a": "../secret.safetensors"}), "no file of weights"),
    "an index of nothing": (lambda d: edit(d / INDEX, weight_map={}), "names no files"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "a damaged tokenizer": (lambda d: (d / "tokenizer.json").write_text('{"model": 3}'), "not a tokenizer"),
    "more tokens than embeddings": (lambda d: edit(d / "config.json", vocab_size=100), "259 tokens for 100 embeddings"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(name, copy):
    harm, message = DAMAGE[name]
    harm(copy)
    with pytest.raises(ModelError, match=message) as caught:
        Engine.load(copy, dtype="float32", thread_count=1)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(copy):
    opened = SafetensorsFile(shard(copy))
    tensors = {name: opened.tensor(name) for name in opened.entries}
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    safetensors.write(shard(copy), tensors)
    with pytest.raises(ModelError, match="NaN"):
        Engine.load(copy, dtype="float32", thread_count=1)


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(ModelError, match="pickle"):
            Engine.load(path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        Engine.load(tmp_path)


def test_a_folder_without_a_template_says_so_and_works_raw(folder):
    from assistant.turn import Message, Sampling

    engine = Engine.load(folder, dtype="float32", thread_count=1)
    with pytest.raises(ModelError, match="no chat template"):
        engine.render([Message("user", "hi")], reserve=8)
    assert list(engine.generate(engine.render_raw("hi"), Sampling(temperature=0, max_tokens=2)))


def test_a_folder_may_name_its_chat_format(copy):
    from assistant.turn import Message

    edit(copy / "tokenizer_config.json", chat_format="chatml")
    engine = Engine.load(copy, dtype="float32", thread_count=1)
    shown = "".join(engine.tokenizer.text_of(i) for i in engine.render([Message("user", "hi")], reserve=8).ids)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    edit(copy / "tokenizer_config.json", chat_format="mine")
    with pytest.raises(ModelError, match="no chat format 'mine': choose chatml, "):
        Engine.load(copy, dtype="float32", thread_count=1).render([Message("user", "hi")], reserve=8)


def test_random_numbers_in_a_config_never_escape_as_another_error():
    from assistant.lm import hf_config
    from assistant.lm.config import Config
    from tests.tiny_families import FAMILIES

    kinds = {"Llama": "llama", "Mistral": "mistral", "Qwen2": "qwen2", "Qwen3": "qwen3", "Gemma3": "gemma3_text", "GPT2": "gpt2"}
    odd = [
        None,
        True,
        -1,
        0,
        1 << 70,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        [1],
        {},
        {"rope_type": "yarn"},
        {"rope_type": []},
        [[]],
    ]
    rng = random.Random(13)
    understood = 0
    for _ in range(1500):
        kind, numbers = rng.choice(list(FAMILIES.values()))
        described = {"model_type": kinds[kind], **numbers, "rope_scaling": None, "layer_types": None, "rope_theta": 1e4}
        for key in rng.sample(sorted(described), rng.randint(0, 2)):
            described[key] = rng.choice(odd)
        try:
            understood += isinstance(hf_config.read(described, "m"), Config)
        except ModelError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
    assert understood > 300


def test_random_bytes_in_a_header_never_escape_as_another_error(folder, tmp_path):
    data, rng = bytearray(shard(folder).read_bytes()), random.Random(3)
    path = tmp_path / "m.safetensors"
    for _ in range(300):
        damaged = data.copy()
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(0, 400)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            opened = SafetensorsFile(path)
            for name in opened.entries:
                opened.tensor(name)
        except ModelError as error:
            assert "\n" not in str(error)
