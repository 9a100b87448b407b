"""Kernels are measured, kept, and chosen by what was measured; what changes a reply's numbers is a dtype of its own."""

import json

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type

from assistant.errors import UsageError
from assistant.lm import decode, kernels
from assistant.lm.engine import Engine, pick_dtype
from assistant.lm.kernels import USUAL, Kernels
from assistant.settings import Settings
from assistant.turn import Sampling
from tests.assistant.lm.test_batch import write_quantised

AVX2 = {
    "token int4": 70, "token int8": 100, "token bfloat16": 65, "token float32": 330, "prompt float32": 2200,
    "prompt float32 columns": 1900, "prompt bfloat16": 7000,
}  # fmt: skip
AVX512 = AVX2 | {
    "token int4": 36, "token bfloat16": 63, "token bfloat16 onednn": 150, "prompt float32": 2600, "prompt float32 columns": 2600,
    "prompt bfloat16": 900,
}  # fmt: skip
SCALAR = AVX2 | {"token int4": 900}
"""A build whose int4 kernel was compiled without vector code."""


def test_what_was_measured_decides():
    assert USUAL.dtype == "int4" and USUAL.columns and USUAL.native
    assert Kernels(AVX2).dtype == "int4" and Kernels(AVX2).columns
    assert Kernels(AVX512).dtype == "int4+bfloat16" and Kernels(AVX512).native
    assert Kernels(SCALAR).dtype == "bfloat16"
    # a prompt read four times faster counts, however long the reply takes
    assert Kernels({"token int4": 32, "prompt float32": 960, "prompt bfloat16": 217}).dtype == "int4+bfloat16"
    assert Kernels({"token int4": 32, "prompt float32": 230, "prompt bfloat16": 217}).dtype == "int4"
    assert Kernels(SCALAR | {"prompt bfloat16": 70_000}).dtype == "float32"
    assert Kernels({name: 1.0 for name in AVX2}).dtype == "int4"  # a draw changes nothing
    assert not Kernels(AVX2 | {"prompt float32": 1000}).columns
    assert not Kernels(AVX512 | {"token bfloat16 onednn": 40}).native
    assert not Kernels(AVX2, frozenset({"rows"})).columns and Kernels(AVX2 | {"prompt float32": 1}, frozenset({"columns"})).columns
    assert str(Kernels(AVX2, frozenset({"rows", "onednn"}))).endswith("rows onednn")


def test_a_kernel_that_this_build_has_not_is_left_out(monkeypatch):
    def missing():
        raise NotImplementedError

    monkeypatch.setattr(kernels, "_actions", lambda: {"token int4": (missing, 1), "token float32": (lambda: None, 1)})
    found = kernels.measure(2)
    assert list(found) == ["token float32"] and Kernels(found).dtype == "int4"  # nothing read prompts: nothing can be said


@pytest.fixture
def measured(monkeypatch):
    """How often something was measured."""
    calls = []
    monkeypatch.setattr(kernels, "measure", lambda: calls.append(1) or dict(AVX512))
    return calls


def test_the_choice_is_kept_for_this_processor_and_torch(tmp_path, monkeypatch, measured):
    large = kernels.WORTH
    assert kernels.choose(None, weights=large) == USUAL and kernels.choose(tmp_path, weights=large - 1) == USUAL and not measured
    first = kernels.choose(tmp_path / "new", weights=large)
    assert first.seconds == AVX512 and kernels.choose(tmp_path / "new", weights=large) == first == kernels.current and len(measured) == 1
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
    kernels.choose(tmp_path / "new", weights=large)
    assert len(measured) == 2


def test_a_person_may_choose(tmp_path, monkeypatch, measured):
    monkeypatch.setenv(kernels.VARIABLE, "default")
    assert kernels.choose(tmp_path, weights=kernels.WORTH) == USUAL and not measured
    monkeypatch.setenv(kernels.VARIABLE, "measure,rows")
    assert [kernels.choose(tmp_path, weights=kernels.WORTH).columns for _ in range(2)] == [False, False] and len(measured) == 2
    monkeypatch.setenv(kernels.VARIABLE, "fastest")
    with pytest.raises(UsageError, match="PELLUCID_KERNELS"):
        kernels.choose(tmp_path, weights=kernels.WORTH)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"seconds": {"token int4": "x"}, "key": "KEY"}'])
def test_a_damaged_file_is_measured_again(text, tmp_path, measured):
    kernels.choose(tmp_path, weights=kernels.WORTH)
    (file,) = tmp_path.iterdir()
    file.write_text(text.replace("KEY", json.loads(file.read_text())["key"]))
    assert kernels.choose(tmp_path, weights=kernels.WORTH).seconds == AVX512 and len(measured) == 2
    (tmp_path / "plain").write_text("")
    assert kernels.choose(tmp_path / "plain", weights=kernels.WORTH).seconds == AVX512  # no folder can be made there: nothing is kept


def test_another_precision_is_another_dtype(tmp_path, tiny_model):
    """`int4+bfloat16` writes with the very bits of int4 and reads in bfloat16: close, and not the same."""
    path = write_quantised(tmp_path / "m.gguf", Type.Q4_1, "llama")
    exact, mixed = (Engine.load(path, dtype=dtype, thread_count=1) for dtype in ("int4", "int4+bfloat16"))
    assert mixed.info.dtype == "int4+bfloat16"
    assert torch.equal(exact.decode(5), mixed.decode(5))
    exact.cache.keep_prefix(()), mixed.cache.keep_prefix(())
    ids = list(range(3, 30))
    a, b = (engine.prefill(ids)[0].log_softmax(-1) for engine in (exact, mixed))
    assert not torch.equal(a, b) and float((a.exp() * (a - b)).sum()) < 0.005
    assert Settings(dtype="int4+bfloat16").dtype == mixed.info.dtype
    with pytest.raises(UsageError, match="Q4_0"):
        Engine.load(tiny_model, dtype="int4+bfloat16")


def test_auto_takes_what_suits_a_four_bit_file():
    cpu = torch.device("cpu")
    assert [pick_dtype("auto", cpu, packable, "int4+bfloat16") for packable in (True, False)] == ["int4+bfloat16", "float32"]
    assert pick_dtype("int4", cpu, True, "bfloat16") == "int4"


def test_int4_on_a_cuda_device_reads_prompts_in_bfloat16(monkeypatch):
    cuda, able = torch.device("cuda"), [(8, 6), (7, 5)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: able[0])
    assert [pick_dtype(name, cuda, True) for name in ("int4", "int4+bfloat16")] == ["int4+bfloat16"] * 2
    for packable, device in ((False, cuda), (True, torch.device("mps"))):
        with pytest.raises(UsageError, match="compute capability 8"):
            pick_dtype("int4", device, packable)
    del able[0]
    with pytest.raises(UsageError, match="compute capability 8"):
        pick_dtype("int4", cuda, True)


def test_both_forms_read_the_same(tiny_model, monkeypatch):
    ids, logits = list(range(3, 40)), []
    for form in ("columns", "rows"):
        monkeypatch.setenv(kernels.VARIABLE, form)
        logits.append(Engine.load(tiny_model, dtype="float32", thread_count=1).prefill(ids)[0])
    assert torch.allclose(*logits, atol=1e-4)


def test_onednn_is_left_out_only_meanwhile(tiny_model, monkeypatch):
    seen = []
    monkeypatch.setattr(decode, "onednn_has_bfloat16", lambda: True)
    monkeypatch.setattr(decode, "without_onednn", lambda action: seen.append(1) or kernels.without_onednn(action))
    before = torch._C._get_mkldnn_enabled()
    engine = Engine.load(tiny_model, dtype="bfloat16", thread_count=1)
    assert len(list(engine.generate(engine.render_raw("a b c"), Sampling(temperature=0, max_tokens=4)))) and seen
    assert torch._C._get_mkldnn_enabled() == before
    monkeypatch.setenv(kernels.VARIABLE, "onednn")
    seen.clear()
    Engine.load(tiny_model, dtype="bfloat16", thread_count=1).decode(3)
    assert not seen
