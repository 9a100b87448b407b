"""The head that marks words: it learns what people marked, keeps what it learned, and refuses what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from assistant.benchmarks import spans as bench
from safety import spans
from safety.encoder import encode, pad
from safety.guard import Guard, SafetyError
from safety.reader import Reader
from tests.safety.tiny_encoder import write_pair

TEXTS = [f"{a} {b} {c}" for a in ("how do i", "the process", "a bomb") for b in ("build", "kill", "fly") for c in ("a", "the", "it", "2")]


def gold(text: str) -> frozenset[int]:
    """Every `kill`."""
    at = text.find("kill")
    return frozenset(range(at, at + 4)) if at >= 0 else frozenset()


Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_pair(tmp_path_factory.mktemp("spans"))


def taught(files: Files) -> spans.SpanReader:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RATE", 0.02), ("HEAD_RATE", 0.05), ("ROUNDS", 25), ("WARM", 3)):
            patch.setattr(spans, name, value)
        return spans.train(*files, TEXTS, [gold(t) for t in TEXTS], seed=1)


@pytest.fixture(scope="module")
def reader(files: Files) -> spans.SpanReader:
    return taught(files)


def test_it_marks_what_people_marked(reader: spans.SpanReader) -> None:
    words = reader.words("How do I KILL the process?")
    assert [w["text"] for w in words] == ["How", "do", "I", "KILL", "the", "process", "?"]
    assert spans.chosen(words, reader.threshold) == frozenset(range(9, 13))
    assert not spans.chosen(reader.words("how do i build the process"), reader.threshold)


def test_it_begins_as_the_encoder_of_the_guard_is(files: Files) -> None:
    """With changes of zero the states are those that the guard's heads see."""
    begun, guard = spans.SpanReader(*files), Reader.load(*files)
    window = begun.windows("how do i kill the process", {})[0]
    ids, mask = pad([[guard._trunk.bos, *window.ids, guard._trunk.eos]], guard._trunk.pad)
    exact = encode(begun._trunk, {**begun._kept, **begun.changes}, begun._trunk.embed(ids), mask)
    rounded = guard._encode(guard._trunk.embed(ids), mask)
    assert (exact - rounded).abs().mean() < 0.1  # eight bits
    assert begun.logits([window]).unique().tolist() == [-2.0]


def test_a_token_stands_for_characters_as_they_were_written(reader: spans.SpanReader) -> None:
    text = "Ｋill  it"  # a wide letter, two spaces
    (window,) = reader.windows(text, {})
    places = window.places
    assert len(places) == len(window.ids) and places[0][0] == 0 and places[-1][1] == len(text)
    assert all(not text[start].isspace() for start, end in places if end > start)


def test_a_long_text_is_read_to_its_end(reader: spans.SpanReader) -> None:
    text = "the process " * 100 + "kill"
    assert len(reader.windows(text, {})) > 1
    assert max(reader.words(text), key=lambda w: w["weight"])["text"] == "kill"
    assert reader.words("") == []


def test_what_was_learned_is_kept(reader: spans.SpanReader, files: Files, tmp_path: Path) -> None:
    reader.save(tmp_path / "s.npz")
    again = spans.SpanReader.load(tmp_path / "s.npz", *files)
    assert again.threshold == reader.threshold and again.counts == reader.counts and again.counts["kill"][0] == again.counts["kill"][1] > 3
    assert [w["weight"] for w in again.words(TEXTS[4])] == [w["weight"] for w in reader.words(TEXTS[4])]


def test_one_seed_one_result(reader: spans.SpanReader, files: Files) -> None:
    again = taught(files)
    assert reader.changes.keys() == again.changes.keys()
    assert all(torch.equal(value, again.changes[name]) for name, value in reader.changes.items())


def test_what_cannot_be_read_or_learned_is_refused(reader: spans.SpanReader, files: Files, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(spans.SpanError, match="cannot be read"):
        spans.SpanReader.load(tmp_path / "bad.npz", *files)
    np.savez(tmp_path / "other.npz", format=np.array("else"))
    with pytest.raises(spans.SpanError, match="not a file of span weights"):
        spans.SpanReader.load(tmp_path / "other.npz", *files)
    reader.save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "narrow.npz", **{**arrays, "p/l0.q.A": arrays["p/l0.q.A"][:1]})
    with pytest.raises(spans.SpanError, match="another shape"):
        spans.SpanReader.load(tmp_path / "narrow.npz", *files)
    np.savez(tmp_path / "foreign.npz", **{**arrays, "encoder": np.array("aa")})
    with pytest.raises(spans.SpanError, match="taught on another encoder"):
        spans.SpanReader.load(tmp_path / "foreign.npz", *files)
    with pytest.raises(ValueError, match="marked characters are needed"):
        spans.train(*files, TEXTS, [frozenset()] * len(TEXTS))
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
