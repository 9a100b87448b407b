"""Only the assistant's words are learnt; an adapter at run time, an adapter that is merged and the trained model are the same model."""

import json
from dataclasses import replace

import pytest
import torch

from assistant import settings as configuration
from assistant.errors import ModelError, UsageError
from assistant.lm import lora
from assistant.lm.chat_format import FORMATS
from assistant.lm.engine import Engine
from assistant.lm.train import Plan
from assistant.loading import load_engine
from assistant.training.corpus import Source
from assistant.training.documents import encode_chat
from assistant.training.finetuning import FineTuning, Method
from assistant.turn import Message

PLAN = Plan(steps=12, batch=2, context=160, rate=2e-2, warmup=1, weight_decay=0.0)


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]} for p, r in (("hi", "yo"), ("你好", "好"))]
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def tuned(model, chats, output, method):
    engine = Engine.load(model, dtype="float32")
    work = FineTuning(engine, str(model), [Source(chats)], PLAN, method, output, validation=0.0, chats=["hi"])
    list(work.events())
    return engine, work, work.finish()


def test_only_the_assistant_s_words_are_learnt(tiny_model):
    tokenizer = Engine.load(tiny_model, dtype="float32").tokenizer
    messages = [Message("user", "ab"), Message("assistant", "cd"), Message("user", "ef"), Message("assistant", "gh")]
    style = FORMATS["chatml-smollm2"]
    ids, learn = encode_chat(messages, style, tokenizer)
    assert [p.id for p in style.render(messages[:-1], tokenizer)] == ids[: -len("gh") - 1]
    end = tokenizer.ids["<|im_end|>"]
    assert [tokenizer.text_of(i) for i, wanted in zip(ids, learn, strict=True) if wanted] == ["c", "d", tokenizer.text_of(end), "g", "h",
                                                                                                tokenizer.text_of(end)]  # fmt: skip
    thinking = FORMATS["chatml-qwen3"]  # earlier replies are shown without the step that new ones begin with: only the last is learnt
    _, learn = encode_chat(messages, thinking, tokenizer)
    assert sum(learn) == 3


def test_an_adapter_loads_on_its_base_and_equals_the_merged_model(tiny_model, chats, tmp_path):
    before = Engine.load(tiny_model, dtype="float32")
    engine, work, card = tuned(tiny_model, chats, tmp_path / "adapter", Method(4, 8.0, ("qkv", "down")))
    losses = work.trainer.losses
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(engine.model.blocks[0].qkv.weight, before.model.blocks[0].qkv.weight)
    assert card["tokens"]["learnt"] == len("yo") + 1 + len("好".encode()) + 1
    ids = torch.tensor([before.tokenizer.encode("hi there")])
    trained = engine.model(ids)

    settings = configuration.load({"model": str(tmp_path / "adapter")})
    at_run_time = load_engine(settings, lambda what, fraction: None)
    torch.testing.assert_close(at_run_time.model(ids), trained, rtol=1e-4, atol=1e-4)
    assert at_run_time.info.name == "tiny+adapter" and at_run_time.info.sha256 != before.info.sha256
    torch.testing.assert_close(at_run_time.prefill(ids[0].tolist())[0], engine.model.logits(trained)[0, -1], rtol=1e-3, atol=1e-3)

    tuned(tiny_model, chats, tmp_path / "merged", Method(4, 8.0, ("qkv", "down"), merged=True))
    merged = Engine.load(tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(merged.model(ids), trained, rtol=1e-4, atol=1e-4)
    assert merged.chat_format.name == "chatml-smollm2"
    with pytest.raises(UsageError, match="there is a model"):
        tuned(tiny_model, chats, tmp_path / "merged", Method())


def test_an_adapter_of_another_base_is_refused(tiny_model, endless_model, chats, tmp_path):
    tuned(tiny_model, chats, tmp_path / "a", Method(2, 4.0))
    adapter = lora.read(tmp_path / "a")
    with pytest.raises(ModelError, match="belongs to another base model"):
        lora.add(Engine.load(endless_model, dtype="float32"), adapter)
    described = json.loads((tmp_path / "a" / "adapter.json").read_text("utf-8"))
    (tmp_path / "a" / "adapter.json").write_text(json.dumps(described | {"base": str(endless_model)}), "utf-8")
    with pytest.raises(ModelError, match="belongs to another base model"):
        load_engine(configuration.load({"model": str(tmp_path / "a")}), lambda what, fraction: None)
    with pytest.raises(ModelError, match="does not fit this model"):
        lora.merge(Engine.load(tiny_model, dtype="float32").model, replace(adapter, targets=("qkv",), tensors={}))
    (tmp_path / "a" / "adapter.json").write_text("{}", "utf-8")
    with pytest.raises(ModelError, match="no whole adapter"):
        lora.read(tmp_path / "a")


def test_all_weights_can_be_trained(tiny_model, chats, tmp_path):
    before = Engine.load(tiny_model, dtype="float32")
    engine, work, _ = tuned(tiny_model, chats, tmp_path / "whole", Method(rank=0))
    assert work.trainer.losses[-1] < work.trainer.losses[0]
    stored = Engine.load(tmp_path / "whole", dtype="float32")
    assert not torch.equal(stored.model.embedding.weight, before.model.embedding.weight)
    ids = torch.tensor([before.tokenizer.encode("hi")])
    torch.testing.assert_close(stored.model(ids), engine.model(ids), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_learnt_is_refused(tiny_model, chats, tmp_path):
    engine = Engine.load(tiny_model, dtype="float32")
    text = tmp_path / "t.txt"
    text.write_text("plain", "utf-8")
    for source, plan, method, said in (
        (Source(text), PLAN, Method(), "give conversations"),
        (Source(chats), replace(PLAN, context=8), Method(), "no reply lies within the first 8 tokens"),
        (Source(chats), replace(PLAN, context=4096), Method(), "reads 512 tokens at most"),
        (Source(chats), PLAN, Method(targets=("head",)), "cannot change head"),
        (Source(chats), PLAN, Method(rank=4, alpha=0.0), "alpha above 0"),
    ):
        with pytest.raises(UsageError, match=said):
            FineTuning(engine, "x", [source], plan, method, tmp_path / "o", validation=0.0)
