"""The loop that writes a reply: ends, stop strings, cancellation, failures, and what is kept in each case."""

import threading

import pytest
import torch

from assistant.lm.energy import Meter
from assistant.lm.engine import Engine
from assistant.lm.generate import Generation, StopBuffer
from assistant.turn import Sampling

GREEDY = dict(temperature=0, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine.load(tiny_model, dtype="float32", thread_count=1)


class Script:
    """A decoder that writes a given text, then an end token."""

    def __init__(self, engine, text, fail_after=None):
        self.size = engine.model.config.vocab_size
        self.ids = [*engine.tokenizer.encode(text), 2]
        self.at, self.fail_after = 0, fail_after

    def logits(self):
        out = torch.zeros(self.size)
        out[self.ids[self.at]] = 20.0
        self.at += 1
        return out

    def prefill(self, ids):
        return self.logits(), 0

    def decode(self, token):
        if self.fail_after is not None and self.at > self.fail_after:
            raise RuntimeError("the device is gone")
        return self.logits()


def generation(engine, text, *, cancel=None, room=1000, fail_after=None, **sampling):
    script = Script(engine, text, fail_after)
    return Generation(
        [5, 6], Sampling(**{**GREEDY, **sampling}), prefill=script.prefill, decode=script.decode, tokenizer=engine.tokenizer,
        eos=frozenset({2}), room=room, meter=Meter(5.0), cancel=cancel,
    )  # fmt: skip


def text_of(generation):
    return "".join(token.text for token in generation)


def test_a_reply_ends_at_the_end_token_which_is_not_part_of_it(engine):
    g = generation(engine, "今天天气 👍🏽")
    assert text_of(g) == "今天天气 👍🏽" and g.finish == "stop"
    assert g.usage.reply_tokens == len(engine.tokenizer.encode("今天天气 👍🏽")) and g.usage.prompt_tokens == 2


def test_no_token_shows_half_a_character(engine):
    texts = [t.text for t in generation(engine, "天a")]
    assert texts == ["", "", "天", "a"]


@pytest.mark.parametrize("stop, expected", [(("气",), "今天天"), (("天天", "x"), "今"), (("zz",), "今天天气"), (("气!",), "今天天气")])
def test_stop_strings_end_the_reply_and_are_not_shown(engine, stop, expected):
    assert text_of(generation(engine, "今天天气", stop=stop)) == expected


def test_max_tokens_and_the_context_end_it_as_length(engine):
    g = generation(engine, "abcdefgh", max_tokens=3)
    assert (text_of(g), g.finish) == ("abc", "length")
    g = generation(engine, "abcdefgh", room=2)
    assert (text_of(g), g.finish) == ("ab", "length")


def test_cancelling_keeps_what_was_written(engine):
    cancel = threading.Event()
    g = generation(engine, "abcdefgh", cancel=cancel)
    out = ""
    for token in g:
        out += token.text
        if token.index == 2:
            cancel.set()
    assert out.startswith("abc") and len(out) < 8 and g.finish == "stopped"


def test_a_failing_engine_gives_what_it_had_before_the_error_passes(engine):
    out = []
    with pytest.raises(RuntimeError, match="the device is gone"):
        for token in generation(engine, "abcdefgh", fail_after=3):
            out.append(token.text)
    assert "".join(out) == "abcd"


def test_tokens_carry_probability_entropy_and_candidates(engine):
    tokens = list(generation(engine, "ab"))
    for token in tokens:
        assert token.logprob == pytest.approx(0.0, abs=1e-4) and token.entropy == pytest.approx(0.0, abs=1e-3)
        assert len(token.candidates) == 5 and token.candidates[0].id == token.id


def test_stop_buffer_holds_only_what_might_be_a_stop():
    buffer = StopBuffer(["END", "ND!"])
    assert [buffer.feed(t) for t in ("aE", "N", "x")] == [("a", False), ("", False), ("ENx", False)]
    assert buffer.feed("EN") == ("", False)
    assert buffer.finish() == "EN"


def test_the_same_seed_gives_the_same_reply_and_the_cache_changes_nothing(engine):
    sampling = Sampling(temperature=1.0, seed=11, max_tokens=24)
    prompt = engine.render_raw("hello there")
    first = [t.id for t in engine.generate(prompt, sampling)]
    engine.cache.keep_prefix([])
    assert [t.id for t in engine.generate(prompt, sampling)] == first
    warm = engine.generate(prompt, sampling)
    assert [t.id for t in warm] == first and warm.cached_tokens > 0
    assert [t.id for t in engine.generate(prompt, Sampling(temperature=1.0, seed=12, max_tokens=24))] != first


def test_energy_is_labelled_and_rapl_counters_wrap(tmp_path):
    meter = Meter(10.0, root=tmp_path)
    assert meter.read() == (None, "none")
    meter.start()
    sum(i * i for i in range(200_000))
    joules, source = meter.read()
    assert joules > 0 and source.startswith("estimated")
    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    (domain / "max_energy_range_uj").write_text("1000000")
    (domain / "energy_uj").write_text("900000")
    meter.start()
    (domain / "energy_uj").write_text("400001")
    assert meter.read() == (pytest.approx(0.500002), "measured:rapl")
