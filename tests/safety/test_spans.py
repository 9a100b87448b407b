"""The head that marks words: it learns what people marked, keeps what it learned, and refuses what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from assistant.benchmarks import spans as bench
from safety import spans
from safety.guard import Guard, SafetyError
from safety.normalize import base_view
from safety.reader import Reader
from tests.safety.tiny_encoder import make_reader, write_base

TEXTS = [f"{a} {b} {c}" for a in ("how do i", "the process", "a bomb") for b in ("build", "kill", "fly") for c in ("a", "the", "it", "2")]


def gold(text: str) -> frozenset[int]:
    """Every `kill`."""
    at = text.find("kill")
    return frozenset(range(at, at + 4)) if at >= 0 else frozenset()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return make_reader(write_base(tmp_path_factory.mktemp("spans") / "tiny.e5s1"), eight=False)


@pytest.fixture(scope="module")
def head(reader: Reader) -> spans.SpanHead:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "RATE", 0.02)
        patch.setattr(spans, "ROUNDS", 30)
        return spans.train(reader, TEXTS, [gold(t) for t in TEXTS], seed=1)


def test_it_marks_what_people_marked(reader: Reader, head: spans.SpanHead) -> None:
    words = head.words(reader, "How do I KILL the process?")
    assert [w["text"] for w in words] == ["How", "do", "I", "KILL", "the", "process", "?"]
    assert spans.chosen(words, head.threshold) == frozenset(range(9, 13))
    assert not spans.chosen(head.words(reader, "how do i build the process"), head.threshold)


def test_a_token_stands_for_characters_as_they_were_written(reader: Reader) -> None:
    view = base_view("Ｋill  it")  # a wide letter, two spaces
    (states, offsets), *_ = reader.states([view.text])[0]
    places = spans.places(view, offsets)
    assert states.shape == (len(offsets), 3 * 32) and places[0][0] == 0 and places[-1][1] == len("Ｋill  it")
    assert all(not "Ｋill  it"[start].isspace() for start, end in places if end > start)


def test_a_long_text_is_read_to_its_end(reader: Reader, head: spans.SpanHead) -> None:
    text = "the process " * 100 + "kill"
    assert len(reader.states([text])[0]) > 1
    assert max(head.words(reader, text), key=lambda w: w["weight"])["text"] == "kill"
    assert head.words(reader, "") == []


def test_what_was_learned_is_kept(reader: Reader, head: spans.SpanHead, tmp_path: Path) -> None:
    head.save(tmp_path / "s.npz")
    again = spans.SpanHead.load(tmp_path / "s.npz")
    assert again.threshold == head.threshold and again.counts == head.counts and head.counts["kill"][0] == head.counts["kill"][1] > 3
    for one, other in zip(head.words(reader, TEXTS[4]), again.words(reader, TEXTS[4]), strict=True):
        assert one["weight"] == pytest.approx(other["weight"], abs=0.05)


def test_one_seed_one_result(reader: Reader, head: spans.SpanHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RATE", 0.02)
    monkeypatch.setattr(spans, "ROUNDS", 30)
    again = spans.train(reader, TEXTS, [gold(t) for t in TEXTS], seed=1)
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))


def test_what_cannot_be_read_or_learned_is_refused(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(spans.SpanError, match="cannot be read"):
        spans.SpanHead.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", format=np.array("else"))
    with pytest.raises(spans.SpanError, match="not a file of span weights"):
        spans.SpanHead.load(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="marked characters are needed"):
        spans.train(reader, TEXTS, [frozenset()] * len(TEXTS))
    with pytest.raises(SafetyError, match="needs the encoder"):
        Guard.load().marks("kill")


def test_neighbours_are_joined_and_the_gap_is_only_one_character() -> None:
    def word(start: int, end: int, weight: float) -> spans.Weight:
        return {"text": "x", "start": start, "end": end, "weight": weight}

    words = [word(0, 2, 1.0), word(3, 5, 1.0), word(7, 8, 1.0), word(9, 10, -1.0), word(11, 12, 1.0)]
    assert spans.chosen(words, 0.0) == frozenset({0, 1, 2, 3, 4, 7, 11})


class Marking:
    """A guard that marks every `bad`."""

    def marks(self, text: str) -> tuple[list[spans.Weight], float]:
        at = text.find("bad")
        return ([{"text": "bad", "start": at, "end": at + 3, "weight": 2.0}] if at >= 0 else []), 0.5


def test_texts_in_which_nothing_is_marked_count(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    entries = [{"text": "a bad day", "rationale": [[2, 5]]}, {"text": "a day"}, {"text": "bad", "set": "other", "rationale": [[0, 3]]}]
    file.write_text("\n".join(json.dumps({"set": "mine", **e}) for e in entries) + "\n")
    rows = bench.read(file, "mine")
    assert [row.gold for row in rows] == [frozenset({2, 3, 4}), frozenset()] and len(bench.read(file)) == 2
    result = bench.evaluate_marks(Marking(), rows)  # type: ignore[arg-type]
    assert result["character_f1"] == 1.0 and result["auprc"] == 1.0 and result["without_marks"] == 1
