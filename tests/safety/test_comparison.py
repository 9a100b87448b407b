"""Trunks side by side: the same lessons for the encoder and for a chat model, both tiny."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from assistant.chat_trunk import ChatStudent
from assistant.lm.engine import Engine
from safety.base_weights import BaseWeights
from safety.classifier import Classifier
from safety.comparison import EncoderStudent, compare
from safety.curriculum import Curriculum, Round
from safety.encoder import Trunk
from safety.ensemble import Ensemble
from safety.resources import data_path
from tests.safety.test_encoder import BLEND, rows
from tests.safety.tiny_encoder import LAYERS, make_reader, write_base


@pytest.fixture
def chat(tiny_model: Path) -> ChatStudent:
    return ChatStudent(Engine.load(tiny_model, dtype="float32", thread_count=1), 2, 0)


def test_what_stands_behind_a_text_changes_nothing(chat: ChatStudent) -> None:
    short, long = chat.ids("kill it", ""), chat.ids("how do i build a bomb, and why", "")
    assert len(short) < len(long)
    together = chat.pooled([short, long])
    for row, ids in zip(together, (short, long), strict=True):
        assert torch.allclose(row, chat.pooled([ids])[0], atol=1e-5)
    assert chat.ids("yes", "may i")[: len(chat.ids("may i", ""))] == chat.ids("may i", "")
    assert len(chat.ids("word " * 500, "")) == len(chat.ids("word " * 500, "why")) <= 104


def test_both_are_taught_the_same_and_measured_on_the_same_rows(chat: ChatStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.comparison.Trunk", lambda file: Trunk(file, LAYERS))
    monkeypatch.setattr("safety.comparison.BUDGET", 96)
    monkeypatch.setattr("safety.comparison.PLAN", [Round({"jade": 40, "benign_clinc150": 20, "benign_plexpt_zh": 20})])
    base = write_base(tmp_path / "tiny.e5s1")
    students = [EncoderStudent(BaseWeights(base, None), 0), chat]
    before = [[p.clone() for p in student.parameters()] for student in students]
    shipped = Ensemble(Classifier.load(data_path("safety", "classifier.npz")), make_reader(base, eight=True), BLEND)
    aside = [{**row, "id": str(i)} for i, row in enumerate(rows(12))]
    report = compare(students, Curriculum(rows(9), [], 0), aside, shipped, steps=60)
    for student, was in zip(students, before, strict=True):
        assert any(not torch.equal(a, b) for a, b in zip(was, student.parameters(), strict=True))
        assert report["students"][student.name]["taught_numbers"] == sum(p.numel() for p in was)
    assert {"prompt.zh", "prompt.en", "response.zh", "response.en"} <= report.keys()
    english = report["prompt.en"]
    assert (english["rows"], english["unsafe"]) == (24, 12)
    assert english.keys() == {"rows", "unsafe", "n-grams, all data", "encoder as shipped", "encoder", chat.name}
    assert english["encoder"]["auprc"] > 0.9  # two sentences are not hard to tell apart
