"""The judge of replies: the perplexity is that of the assistant's words, a model that goes in circles is seen to."""

import json
import math

import pytest
import torch

from assistant.cli.main import main
from assistant.errors import UsageError
from assistant.lm.engine import Engine
from assistant.training import replies
from assistant.training.corpus import Source, read
from assistant.training.documents import encode_chat
from assistant.training.replies import Question, judge, page, read_questions, repeated, surprise

QUESTIONS = [Question("talk", "en", "Hello | there"), Question("talk", "zh", "你好")]


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    turns = [("Hi", "Hello to you, my friend."), ("你好", "你好！今天想聊点什么？")]
    path.write_text(
        "\n".join(json.dumps({"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": r}]}) for p, r in turns),
        "utf-8",
    )
    return path


def test_the_perplexity_is_that_of_the_assistant_s_words(tiny_model, chats, monkeypatch):
    monkeypatch.setattr(replies, "ROWS", 3)  # several pieces
    engine = Engine.load(tiny_model, dtype="float32")
    conversations = read(Source(chats))
    total, count = 0.0, 0
    for one in conversations:
        ids, learn = encode_chat(one.messages, engine.chat_format, engine.tokenizer)
        scores = engine.model.logits(engine.model(torch.tensor([ids])))[0].log_softmax(-1)
        wanted = [i for i in range(1, len(ids)) if learn[i]]
        nats, tokens = surprise(engine, one)
        assert tokens == len(wanted) and math.isclose(nats, -sum(float(scores[i - 1, ids[i]]) for i in wanted), rel_tol=1e-4)
        total, count = total + nats, count + tokens
    found = judge(engine, conversations, QUESTIONS, lambda q: "Be kind.", max_tokens=6)
    assert found.judged["all"] == count == found.judged["zh"] + found.judged["en"]
    assert math.isclose(found.perplexity["all"], math.exp(total / count), rel_tol=1e-4)
    assert len(found.replies) == 2 and found.tokens <= 6 and 0 <= found.ended <= 1
    assert judge(engine, conversations, QUESTIONS, lambda q: "Be kind.", max_tokens=6).replies == found.replies
    text = page([found, found], QUESTIONS)
    assert "Hello \\| there" in text and text.count("tiny (float32)") == 4


def test_going_in_circles_is_seen():
    assert repeated([1, 2, 3, 4, 5, 6, 7]) == 0 == repeated([1, 2])
    assert repeated([1, 2, 3, 4] * 5) == 1 - 4 / 17


def test_the_command_writes_a_page_and_refuses_what_it_cannot_read(tiny_model, chats, tmp_path, capsys):
    prompts = tmp_path / "p.tsv"
    prompts.write_text("# comment\ntalk\ten\tHello\nmedical\tzh\t头疼怎么办？\n", "utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "replies", str(tiny_model), "--chats", str(chats), "--prompts", str(prompts), "--page", str(tmp_path / "p.md"),
              "--max-tokens", "4", "--dtype", "float32", "--json"])  # fmt: skip
    assert not ended.value.code and json.loads(capsys.readouterr().out)[0]["model"] == "tiny"
    assert "头疼怎么办？" in (tmp_path / "p.md").read_text("utf-8")
    prompts.write_text("talk\tfr\tBonjour\n", "utf-8")
    with pytest.raises(UsageError, match="line 1: give topic, language"):
        read_questions(prompts)
    prompts.write_text("\n", "utf-8")
    with pytest.raises(UsageError, match="holds no prompt"):
        read_questions(prompts)
    plain = tmp_path / "plain.txt"
    plain.write_text("just text", "utf-8")
    with pytest.raises(UsageError, match="plain text among"):
        judge(Engine.load(tiny_model, dtype="float32"), read(Source(plain)), [], lambda q: "")
