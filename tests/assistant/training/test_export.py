"""What is exported is read by our own reader, and by llama.cpp where it is there, as the same model."""

import numpy as np
import pytest
import torch

from assistant.errors import ModelError
from assistant.lm.bpe import train_tokenizer, wrap
from assistant.lm.engine import Engine
from assistant.lm.gguf_export import export
from assistant.lm.saving import save
from assistant.lm.train import initialise
from assistant.lm.transformer import Config, Transformer

TEXTS = ["今天天气很好。", "你好！", "The weather is nice today."] * 20


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def folder(request, tmp_path_factory):
    tokenizer = wrap(train_tokenizer(TEXTS, 320))
    torch.manual_seed(0)
    config = Config(
        vocab_size=tokenizer.size, width=64, n_layers=2, n_heads=2, n_kv_heads=1, ffn_width=96, context_length=64,
        qk_norm=request.param == "qwen3",
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, 0)
    for p in model.parameters():
        p.data.mul_(4)
    path = tmp_path_factory.mktemp(request.param) / "model"
    save(model, tokenizer, path, chat_format="chatml", notes={"languages": ["zh", "en"]})
    return path


def test_a_gguf_file_is_the_same_model(folder, tmp_path):
    engine = Engine.load(folder, dtype="float32")
    export(engine, tmp_path / "m.gguf")
    again = Engine.load(tmp_path / "m.gguf", dtype="float32")
    prompt = again.render_raw("今天天气 is <|im_end|>")
    assert prompt == engine.render_raw("今天天气 is <|im_end|>") and prompt.ids[0] == 0
    ids = torch.tensor([prompt.ids])
    torch.testing.assert_close(again.model(ids), engine.model(ids))
    assert again.chat_format.name == "chatml" and again.tokenizer.eos == engine.tokenizer.eos and again.languages == ("zh", "en")


def test_llama_cpp_reads_it(folder, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    engine = Engine.load(folder, dtype="float32")
    export(engine, tmp_path / "m.gguf")
    theirs = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    ids = list(engine.render_raw("今天天气很好 The weather").ids)
    assert theirs.tokenize("今天天气很好 The weather".encode(), add_bos=True, special=False) == ids
    theirs.eval(ids)
    with torch.no_grad():
        ours = engine.model.logits(engine.model(torch.tensor([ids])))[0].numpy()
    np.testing.assert_allclose(theirs.scores[: len(ids)], ours, atol=0.05, rtol=0.05)


def test_a_model_without_a_gguf_form_is_refused(folder, tmp_path, monkeypatch):
    engine = Engine.load(folder, dtype="float32")
    monkeypatch.setattr("assistant.lm.gguf_export.family", lambda config: "gpt2")
    with pytest.raises(ModelError, match="cannot be exported"):
        export(engine, tmp_path / "m.gguf")
