"""The loop learns, is deterministic, goes on bit for bit after it was killed, and never loses its last good state."""

import errno
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assistant.errors import ModelError, UsageError
from assistant.lm import checkpoint
from assistant.lm.batches import IGNORE, Document, Packed, Stream
from assistant.lm.bpe import CONTROL, SMALLEST, train_tokenizer, wrap
from assistant.lm.lstm import LSTM, LSTMConfig, matching, parameters_of
from assistant.lm.objective import surprise
from assistant.lm.train import Evaluated, Plan, Sampled, Saved, Stepped, Trainer, initialise
from assistant.lm.transformer import Config, Transformer
from assistant.training.runs import check_compiler

SIZES = Config(vocab_size=40, width=16, n_layers=2, n_heads=2, n_kv_heads=1, ffn_width=24, context_length=12)
PLAN = Plan(steps=24, batch=4, context=12, rate=1e-2, warmup=3, evaluate_every=8, sample_every=24, save_every=7)


def documents(count=30, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Document(np.concatenate([[0], 1 + (rng.integers(3) + np.arange(rng.integers(3, 9))) % 39]).astype(np.int32)) for _ in range(count)
    ]


def trainer(folder, plan=PLAN, model=None, **options):
    model = Transformer(SIZES) if model is None else model
    initialise(model, plan.seed)
    return Trainer(model, Stream(documents(), plan.context, plan.batch, plan.seed), plan, folder, identity="x", **options)


def test_a_batch_depends_on_seed_and_step_alone():
    a, b = Stream(documents(), 12, 4, seed=1), Stream(documents(), 12, 4, seed=1)
    for step in (7, 0, 31):
        assert torch.equal(a.batch(step).ids, b.batch(step).ids)
    batch = a.batch(3)
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1])
    assert not torch.equal(Stream(documents(), 12, 4, seed=2).batch(3).ids, batch.ids)
    halves = torch.cat([batch.part(0, 2).ids, batch.part(1, 2).ids])
    assert sorted(map(tuple, halves.tolist())) == sorted(map(tuple, batch.ids.tolist()))


def test_an_epoch_reads_every_window_once():
    data = Stream(documents(), 12, 1)
    seen = [tuple(data.batch(i).ids[0].tolist()) for i in range(data.rows)]
    stream, _ = data._epoch_stream(0)
    assert sorted(seen) == sorted(tuple(stream[i * 12 : i * 12 + 12].tolist()) for i in range(data.rows))


def test_a_corpus_smaller_than_a_context_is_refused():
    with pytest.raises(UsageError, match="fewer than one context of 500"):
        Stream(documents(2), 500, 1)


def test_packed_documents_do_not_see_each_other():
    learn = np.array([False, False, True, True, True])
    found = [
        Document(np.array([1, 2, 3, 4, 5], np.int32), learn),
        Document(np.array([6, 7, 8], np.int32)),
        Document(np.arange(30, dtype=np.int32)),
    ]
    batch = Packed(found, 8, 3).batch(0)
    model = Transformer(SIZES)
    initialise(model, 0)
    hidden = model(batch.ids, positions=batch.positions, mask=batch.mask())
    for document in found:
        row, at = next((r, i) for r in range(3) for i in range(8) if batch.ids[r, i] == document.ids[0] and batch.positions[r, i] == 0
                       and batch.ids[r, min(i + 1, 7)] == document.ids[1])  # fmt: skip
        length = min(len(document.ids) - 1, 8)
        alone = model(torch.from_numpy(document.ids[:length]).long().unsqueeze(0))[0]
        torch.testing.assert_close(hidden[row, at : at + length], alone, rtol=1e-4, atol=1e-5)
        wanted = torch.from_numpy(document.ids[1 : length + 1]).long()
        if document.learn is not None:
            wanted[~torch.from_numpy(document.learn[1 : length + 1])] = IGNORE
        assert torch.equal(batch.targets[row, at : at + length], wanted)


def test_the_surprise_and_its_gradients_are_those_of_cross_entropy(monkeypatch):
    monkeypatch.setattr("assistant.lm.objective.SCORES", 50 * 128)  # several rounds, the last one shorter
    torch.manual_seed(0)
    h, w, t = torch.randn(600, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True), torch.randint(0, 50, (600,))
    ours = surprise(h, w, t)
    gradients = torch.autograd.grad(ours * 0.5, (h, w))
    plain = F.cross_entropy(h @ w.T, t, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for a, b in zip(gradients, torch.autograd.grad(plain * 0.5, (h, w)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_surprise_of_what_is_all_but_impossible_is_exact():
    torch.manual_seed(0)
    h, w, t = torch.randn(40, 8) * 9, torch.randn(50, 8) * 9, torch.randint(0, 50, (40,))
    plain = F.cross_entropy(h.double() @ w.double().T, t, reduction="sum")
    assert (F.log_softmax(h @ w.T, 1).gather(1, t.unsqueeze(1)) < -103).any()  # no float32 is as small as e^−104
    torch.testing.assert_close(surprise(h, w, t).double(), plain, rtol=1e-5, atol=1e-3)


def test_no_targets_have_no_surprise_and_no_gradients():
    w = torch.randn(50, 8, requires_grad=True)
    ours = surprise(torch.zeros(0, 8), w, torch.zeros(0, dtype=torch.long))
    assert ours == 0 and torch.autograd.grad(ours, w)[0].abs().max() == 0


def test_the_rate_rises_and_falls():
    plan = Plan(steps=100, warmup=10, rate=1.0, floor=0.1)
    rates = [plan.rate_at(i) for i in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0.1 <= rates[-1] < 0.11


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_it_learns_and_tells_what_happens(tmp_path, arch):
    model = None if arch == "transformer" else LSTM(LSTMConfig(40, 16, 20, 1, 12))
    data = Stream(documents(), 12, 4)
    run = trainer(tmp_path, model=model, validation=[data.batch(0)], prompts=[[0, 1, 2]])
    events = list(run.run())
    losses = [e.loss for e in events if isinstance(e, Stepped)]
    assert losses[0] > 3.3 and losses[-1] < 0.7 * losses[0]
    assert [e.step for e in events if isinstance(e, Evaluated)] == [8, 16, 24]
    assert [e.step for e in events if isinstance(e, Saved)] == [0, 7, 14, 21, 24]
    assert sum(isinstance(e, Sampled) for e in events) == 1


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path, arch):
    def new(folder):
        return trainer(folder, model=None if arch == "transformer" else LSTM(LSTMConfig(40, 16, 20, 2, 12, dropout=0.2)))

    torch.manual_seed(5)
    straight = new(tmp_path / "a")
    list(straight.run())
    torch.manual_seed(5)
    cut = new(tmp_path / "b")
    for event in cut.run():
        if isinstance(event, Stepped) and event.step == 11:  # four steps after the checkpoint of step 7
            break
    torch.manual_seed(99)
    again = new(tmp_path / "b")
    assert again.resume() and again.step == 7
    list(again.run())
    assert again.losses == straight.losses
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), straight.model.parameters(), strict=True))


def test_accumulation_gives_the_same_loss(tmp_path):
    one, four = trainer(tmp_path / "a"), trainer(tmp_path / "b", Plan(**{**vars_of(PLAN), "accumulate": 4}))
    for _ in range(5):
        assert math.isclose(one.advance().loss, four.advance().loss, rel_tol=1e-4)


def vars_of(plan):
    return {name: getattr(plan, name) for name in plan.__slots__}


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    run.save()
    before = run.path.read_bytes()
    run.advance()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="previous one is whole; make room"):
        run.save()
    assert run.path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.NAME]


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path):
    run = trainer(tmp_path)
    for event in run.run():
        if isinstance(event, Saved) and event.step == 7:
            break
    good = run.path.read_bytes()
    with torch.no_grad():
        run.model.norm.fill_(math.nan)
    with pytest.raises(ModelError, match=r"at step 8 .*checkpoint of step 7 is good"):
        list(run.run())
    assert run.path.read_bytes() == good


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    run = trainer(tmp_path)
    run.save()
    run.identity = "y"
    with pytest.raises(UsageError, match="another corpus, model or plan"):
        run.resume()
    other = Trainer(LSTM(LSTMConfig(40, 16, 20, 1, 12)), run.data, PLAN, tmp_path, identity="x")
    with pytest.raises(UsageError, match="another model"):
        other.resume()
    run.path.write_bytes(run.path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="no whole checkpoint"):
        run.resume()


def test_an_lstm_reads_on_where_it_was_and_is_tied():
    model = LSTM(LSTMConfig(40, 16, 20, 2, 12))
    ids = torch.randint(0, 40, (2, 9))
    whole = model(ids)
    first, state = model.read(ids[:, :4], None)
    rest, _ = model.read(ids[:, 4:], state)
    torch.testing.assert_close(whole, torch.cat([first, rest], 1))
    assert whole.shape == (2, 9, 16) and model.logits(whole).shape == (2, 9, 40)
    assert model.head is model.embedding
    with pytest.raises(UsageError, match="packed"):
        model(ids, mask=torch.ones(1, dtype=torch.bool))


def test_an_lstm_of_as_many_parameters():
    config = matching(30_000, 300, 32, 1, 16)
    assert 0.97 * 30_000 < parameters_of(config) <= 30_000


def test_a_vocabulary_never_joins_chinese_characters():
    texts = ["今天天气很好。", "今天天气很好，我们走吧。", "The weather is nice today."] * 50
    tokenizer = wrap(train_tokenizer(texts, 400))
    assert [tokenizer.text_of(i) for i in tokenizer.encode("今天天气很好")] == list("今天天气很好")
    assert tokenizer.encode("今天天气") == tokenizer.encode("今天天气很好")[:4]
    assert " weather" in [tokenizer.text_of(i) for i in tokenizer.encode("The weather")]
    odd = "emoji 😀, tabs\t and <|im_end|>"
    ids = tokenizer.encode(odd)
    assert tokenizer.decode(ids) == odd and not set(ids) & tokenizer.control
    assert [tokenizer.ids[t] for t in CONTROL] == [0, 1, 2]
    with pytest.raises(UsageError, match=f"at least {SMALLEST}"):
        train_tokenizer(texts, 100)
    assert train_tokenizer(texts, 400).to_str() == train_tokenizer(texts, 400).to_str()


def test_bfloat16_products_learn_as_float32_ones_do(tmp_path):
    """Autocast: the products are taken in bfloat16, the weights and what the optimiser keeps stay float32."""
    found = {}
    for precision in ("float32", "bfloat16"):
        run = trainer(tmp_path / precision, replace(PLAN, precision=precision))
        list(run.run())
        found[precision] = run.losses
        assert all(p.dtype is torch.float32 and p.grad.dtype is torch.float32 for p in run.model.parameters())
    exact, rounded = found["float32"], found["bfloat16"]
    assert exact != rounded and rounded[-1] < 0.8 * rounded[0]
    assert max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) < 0.1


def test_compiling_without_a_compiler_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler .*: install one, or train without --compile"):
        check_compiler()


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(tmp_path):
    try:
        check_compiler()
    except UsageError as error:
        pytest.skip(str(error))
    plan = replace(PLAN, steps=4)
    eager, compiled = trainer(tmp_path / "eager", plan), trainer(tmp_path / "compiled", plan, compiled=True)
    for run in (eager, compiled):
        list(run.run())
    torch.testing.assert_close(torch.tensor(compiled.losses), torch.tensor(eager.losses), rtol=1e-4, atol=1e-4)
    for a, b in zip(compiled.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
