"""Guessing changes the time of a reply and nothing else."""

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type

from assistant.lm import speculate
from assistant.lm.engine import Engine
from assistant.lm.speculate import Speculator, following
from assistant.turn import Message, Sampling
from tests.assistant.lm.test_batch import write_quantised


def test_what_followed_the_last_three_tokens_is_guessed():
    assert following([1, 2, 3, 4, 5, 6, 7, 1, 2, 3]) == [4, 5, 6]
    assert following([1, 2, 3, 9, 1, 2, 3, 4, 1, 2, 3]) == [4, 1, 2]  # the newest place counts
    assert following([5, 5, 5, 5]) == [5]  # places may overlap
    for ids in ([], [1], [1, 2, 3], [1, 2, 3, 4, 2, 3], [0, 2, 3, 4, 1, 2, 3]):
        assert following(ids) == []


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine.load(write_quantised(tmp_path_factory.mktemp("q") / "m.gguf", Type.Q4_1), dtype="int4", thread_count=1)


class Clock:
    """Plain tokens take 2 seconds, passes with guesses `seconds`, known scores nothing."""

    def __init__(self, engine, seconds):
        self.now, self.speculator = 0.0, Speculator(engine._decoder, clock=lambda: self.now)
        plain, rows = engine._decoder, engine._decoder.rows
        self.decoder = plain

        class Timed:
            cache = plain.cache
            state = plain.state
            head = staticmethod(plain.head)

            def __call__(_, token):
                self.now += 2
                return plain(token)

            def rows(_, *inputs):
                self.now += seconds
                return rows(*inputs)

        self.speculator._decoder = Timed()


def logits_of(decode, engine, ids):
    engine.cache.keep_prefix(())
    return [decode(token) for token in ids]


@pytest.mark.parametrize("seconds", [1.0, 3.0, 100.0])
def test_every_score_is_the_one_of_decoding_alone(engine, seconds):
    generator = torch.Generator().manual_seed(0)
    loop = [7, 9, 11, 7, 9, 11, 13]
    noise = torch.randint(3, 200, (40,), generator=generator).tolist()
    ids = noise[:20] + loop * 6 + noise[20:] + loop * 3 + noise[:20]
    alone = logits_of(engine._decoder, engine, ids)
    kept = [part.clone() for part in engine.cache.store.first(len(ids))]
    clock = Clock(engine, seconds)
    together = logits_of(clock.speculator, engine, ids)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, engine.cache.store.first(len(ids)), strict=True))
    assert engine.cache.ids == ids and clock.speculator.passes > 0
    if seconds == 100:
        assert clock.speculator.passes <= 6  # it does not pay, and is tried ever more seldom
    else:
        assert clock.speculator.guessed > 20


def test_a_guess_is_forgotten_when_the_conversation_goes_on_elsewhere(engine):
    clock = Clock(engine, 1.0)
    logits_of(clock.speculator, engine, [7, 9, 11, 7, 9, 11, 7, 9])
    assert clock.speculator._waiting
    engine.cache.keep_prefix([7, 9, 1])
    guessed = clock.speculator._waiting[0][0]
    again = clock.speculator(guessed)
    engine.cache.keep_prefix([7, 9, 1])
    assert torch.equal(again, engine._decoder(guessed))


def test_the_end_of_the_context_is_reached(tmp_path):
    engine = Engine.load(write_quantised(tmp_path / "m.gguf", Type.Q4_1), dtype="int4", thread_count=1, context_length=64)
    logits_of(engine.speculator, engine, [7, 9, 11, 13] * 16)
    assert engine.cache.length == 64


def test_only_rows_that_keep_their_bits_are_read_together(tiny_model, engine):
    assert engine.speculator is not None
    assert all(Engine.load(tiny_model, dtype=dtype, thread_count=1).speculator is None for dtype in ("float32", "int8"))
    assert speculate.speculator(None) is None


@pytest.mark.model
def test_a_real_reply_is_the_same(default_model):
    engine = Engine.load(default_model, dtype="int4")
    text = "Repeat this list five times: red, green, blue, yellow, red, green, blue, yellow, red, green, blue, yellow."
    prompt, sampling = engine.render([Message("user", text)], reserve=128), Sampling(seed=3, max_tokens=96)
    speculator, replies = engine.speculator, []
    for used in (None, None, speculator):
        engine.speculator = used
        replies.append([(t.id, t.logprob) for t in engine.generate(prompt, sampling)])
    assert replies[1] == replies[2] and speculator.guessed > 0
