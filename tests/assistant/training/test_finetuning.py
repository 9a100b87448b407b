"""Only the assistant's words are learnt; an adapter at run time, an adapter that is merged and the trained model are the same model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from assistant import settings as configuration
from assistant.errors import ModelError, UsageError
from assistant.lm import lora, safetensors
from assistant.lm.batches import IGNORE, Batch, Document
from assistant.lm.chat_format import FORMATS
from assistant.lm.engine import Engine
from assistant.lm.objective import Objective
from assistant.lm.train import Plan, Saved
from assistant.loading import load_engine
from assistant.training.corpus import Source
from assistant.training.documents import encode_chat
from assistant.training.finetuning import FineTuning, Method, competing
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
        Engine.load(endless_model, adapters=[adapter])
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


def test_with_every_checkpoint_the_adapter_so_far_can_be_tried(tiny_model, chats, tmp_path):
    engine = Engine.load(tiny_model, dtype="float32")
    plan = replace(PLAN, save_every=3)
    work = FineTuning(engine, str(tiny_model), [Source(chats)], plan, Method(2, 4.0, half=True), tmp_path / "a", validation=0.0)
    for event in work.events():
        if isinstance(event, Saved) and event.step == 3:
            break
    early = lora.read(tmp_path / "a")
    stored = safetensors.SafetensorsFile(tmp_path / "a" / lora.WEIGHTS)
    assert {entry.dtype for entry in stored.entries.values()} == {"F16"}
    assert any(t.abs().max() > 0 for name, t in early.tensors.items() if name.endswith(".b"))
    assert Engine.load(tiny_model, adapters=[early]).info.sha256 == lora.identity(engine.info.sha256, [early]) != engine.info.sha256
    broken = replace(early, tensors={name: t.float() * 1e9 for name, t in early.tensors.items()})
    with pytest.raises(ModelError, match="too large"):
        lora.save(tmp_path / "b", broken, half=True)


def test_only_the_words_named_compete_while_an_adapter_is_trained(tiny_model):
    """Among all words the loss is the usual one; among some it is that of the smaller softmax; what is evaluated meets all words."""
    model = Engine.load(tiny_model, dtype="float32").model
    ids = torch.tensor([[5, 9, 70, 12]])
    batch = Batch(ids, torch.tensor([[9, 70, 12, IGNORE]]))
    whole = Objective(model).train()(batch)
    torch.testing.assert_close(Objective(model, range(model.config.vocab_size)).train()(batch), whole)
    some = [12, 9, 70, 200]
    few = Objective(model, some)
    scores = model.logits(model(ids))[0, :3][:, sorted(some)]
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([sorted(some).index(i) for i in (9, 70, 12)]), reduction="sum")
    torch.testing.assert_close(few.train()(batch), expected)
    torch.testing.assert_close(few.eval()(batch), whole)
    documents = [Document(np.array([5, 200, 7], np.int32)), Document(np.array([5, 6], np.int32))]
    assert competing(documents, 6, 259) == (5, 6, 7, 200, 0, 1) and competing(documents, 2, 259) == (5, 6, 7, 200)
    assert competing(documents, 0, 259) == () == competing(documents, 259, 259)


def test_one_reply_to_several_wordings_can_be_kept(tiny_model, tmp_path):
    path, reply = tmp_path / "c.jsonl", "The same long reply to every wording of a question, which makes them look like one text."
    lines = [{"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": reply}]} for p in ("how", "how?")]
    path.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    engine = Engine.load(tiny_model, dtype="float32")
    for number, keep in enumerate((True, False)):
        work = FineTuning(
            engine, "x", [Source(path)], PLAN, Method(), tmp_path / str(number), validation=0.0, deduplicate=not keep
        )  # fmt: skip
        assert work.facts["documents"]["learnt"] == (2 if keep else 1)
        lora.undo(engine.model)
