"""The judge counts what it says it counts, and both kinds of model can be judged."""

import math

import pytest
import torch

from assistant import settings as configuration
from assistant.errors import ModelError, UsageError
from assistant.lm.bpe import train_tokenizer, wrap
from assistant.lm.engine import Engine
from assistant.lm.lstm import LSTM, LSTMConfig
from assistant.loading import load_engine
from assistant.training import evaluation
from assistant.training.evaluation import JudgedEngine, JudgedLSTM, distinct, judge
from assistant.training.stored_lstm import load_lstm, save_lstm
from assistant.turn import Sampling

TEXT = "今天天气很好。The weather is nice today. " * 3


def quiet(what, fraction):
    pass


def test_figures_of_a_model_are_those_of_its_log_probabilities(tiny_model):
    engine = Engine.load(tiny_model, dtype="float32")
    found = judge(JudgedEngine(engine), TEXT, ["ab"], window=20)
    ids = engine.tokenizer.encode(TEXT)
    total, right, count = 0.0, 0, 0
    for start in range(0, len(ids), 20):
        row = torch.tensor(ids[start : start + 20])
        scores = engine.model.logits(engine.model(row[None]))[0, :-1].log_softmax(-1)
        total -= float(scores.gather(1, row[1:, None]).sum().detach())
        right += int((scores.argmax(-1) == row[1:]).sum())
        count += len(row) - 1
    assert found.tokens == count and math.isclose(found.perplexity, math.exp(total / count), rel_tol=1e-4)
    assert math.isclose(found.accuracy, right / count)
    assert math.isclose(found.bits_per_byte, total / count / math.log(2), rel_tol=1e-4)  # in this vocabulary a token is a byte
    assert len(found.samples) == 1
    with pytest.raises(UsageError, match="give a longer one"):
        judge(JudgedEngine(engine), "a", [])


def test_an_lstm_is_stored_read_and_judged(tmp_path):
    tokenizer = train_tokenizer([TEXT], 300)
    model = LSTM(LSTMConfig(wrap(tokenizer).size, 8, 12, 1, 16))
    save_lstm(model, tokenizer, tmp_path / "lstm")
    again, words = load_lstm(tmp_path / "lstm")
    ids = torch.tensor([words.encode("今天")])
    torch.testing.assert_close(again(ids), model.eval()(ids))
    settings = configuration.load({"model": str(tmp_path / "lstm")})
    with pytest.raises(ModelError, match=r"is an LSTM, the baseline .*evaluate lm"):
        load_engine(settings, quiet)
    loaded = evaluation.load(str(tmp_path / "lstm"), configuration.load({}), quiet)
    assert isinstance(loaded, JudgedLSTM)
    greedy = Sampling(temperature=0, repetition_penalty=1.0, max_tokens=5)
    written = loaded.write([0, 5], greedy)
    seen = [0, 5]
    for token in written:
        assert token == int(model.logits(model(torch.tensor([seen])))[0, -1].argmax())
        seen.append(token)
    found = judge(loaded, TEXT, ["今天", "The"])
    assert found.perplexity > 1 and len(evaluation.table([found], ["今天", "The"])) > 8
    (tmp_path / "lstm" / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ModelError):
        load_lstm(tmp_path / "lstm")


def test_distinct():
    assert distinct([[1, 2, 1, 2]], 1) == 0.5 and distinct([[1, 2], [1, 2]], 2) == 0.5 and distinct([[]], 1) == 0.0
