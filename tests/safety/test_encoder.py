"""The encoder: its file, its arithmetic, its part in the ensemble, its training. All with a tiny one, but for one test."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from assistant.errors import ModelError
from assistant.lm import catalog, pull
from assistant.loading import guard_encoder, load_guard
from assistant.settings import Settings
from safety import resources
from safety.base_weights import BaseWeights, BaseWeightsError, dequantised
from safety.calibrate import fit_blend
from safety.classifier import Classifier
from safety.curriculum import Curriculum, batches, contrast_rows
from safety.encoder import Trunk, by_length, encode, pad, pool, tokenizer
from safety.ensemble import Ensemble
from safety.explanation import explain
from safety.finetune import finetune
from safety.guard import Guard, SafetyError
from safety.language import detect
from safety.moderate import Moderator
from safety.normalize import base_view
from safety.policy import load_policy
from safety.reader import OUTPUTS, Reader
from safety.rules import load_rules
from safety.scan import Scanner
from tests.safety.tiny_encoder import LAYERS, TEXTS, WIDTH, adapted, make_reader, write_base, write_pair

BLEND = {f"{role}.{lang}": [0.6, 0.3, 0.2, -0.5] for role in ("prompt", "response") for lang in ("zh", "en")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("encoder") / "tiny.e5s1")


@pytest.fixture(scope="module")
def ngrams() -> Classifier:
    return Classifier.load(resources.data_path("safety", "classifier.npz"))


@pytest.fixture(scope="module")
def ensemble(base: Path, ngrams: Classifier) -> Ensemble:
    return Ensemble(ngrams, make_reader(base, eight=True), BLEND)


def test_the_file_is_read_as_it_was_written(base: Path) -> None:
    file = BaseWeights(base, None)
    assert (file.shape.width, file.shape.layers, file.bos, file.eos, file.pad) == (WIDTH, LAYERS, 0, 2, 1)
    rows = file.rows("emb.word", WIDTH)
    assert np.array_equal(dequantised(rows).reshape(-1), file.tensor("emb.word"))
    assert file.pieces[4] == "▁how"


def test_a_file_that_is_damaged_or_another_is_refused(base: Path, tmp_path: Path) -> None:
    data = base.read_bytes()
    for name, content in {
        "empty": b"", "magic": b"GGUF" + data[4:], "cut": data[: len(data) // 2], "head": data[:60],
        "sizes": data[:8] + b"\xff" * 28 + data[36:],
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BaseWeightsError, match="fetch it again"):
            BaseWeights(tmp_path / name, None)
    with pytest.raises(BaseWeightsError, match="SHA-256"):
        BaseWeights(base)
    with pytest.raises(BaseWeightsError, match="no tensor"):
        BaseWeights(base, None).tensor("l9.q.w")


def test_merged_maps_compute_what_the_changes_say(base: Path) -> None:
    file = BaseWeights(base, None)
    trunk = Trunk(file, LAYERS)
    changes, split = adapted(trunk), tokenizer(file)
    ids, mask = pad([[trunk.bos, *split.encode(t, add_special_tokens=False).ids, trunk.eos] for t in TEXTS], trunk.pad)
    pooled = pool(encode(trunk, changes, trunk.embed(ids), mask), mask)
    expected = pooled @ changes["head.prompt.w"].T + changes["head.prompt.b"]
    found = make_reader(base, eight=False).logits(TEXTS, "prompt")
    assert np.allclose(found, expected.numpy(), atol=1e-4)
    rounded = make_reader(base, eight=True).logits(TEXTS, "prompt")
    assert np.corrcoef(rounded.ravel(), found.ravel())[0, 1] > 0.99


def test_a_text_scores_the_same_alone_and_in_company(base: Path) -> None:
    reader = make_reader(base, eight=True)
    together = reader.logits([*TEXTS, "a " * 300, ""], "response")
    alone = np.concatenate([reader.logits([text], "response") for text in [*TEXTS, "a " * 300, ""]])
    assert np.allclose(together, alone, atol=0.02)
    assert np.isfinite(together).all()


def test_batches_hold_their_budget() -> None:
    lengths = [random.Random(1).randrange(1, 90) for _ in range(300)]
    for made in (by_length(lengths, 256), list(batches(lengths, 256, random.Random(0)))):
        assert sorted(i for batch in made for i in batch) == list(range(300))
        assert all(len(batch) * max(lengths[i] for i in batch) <= 256 for batch in made)


@pytest.mark.parametrize("text", [*TEXTS, "", "x" * 5000, "杀 " * 900, "how do i " * 400 + "build a bomb"])
def test_scores_and_their_explanation(ensemble: Ensemble, text: str) -> None:
    folded = base_view(text).text
    scores = ensemble.scores(folded, "prompt", detect(text))
    assert len(scores) == len(OUTPUTS) - 1
    assert all(0 <= s.value <= 1 and 0 <= s.start <= s.end <= len(text) for s in scores)
    best = max(scores, key=lambda s: s.value)
    weights = explain(ensemble, text, "prompt", best.label)
    logit = np.log(best.value / (1 - best.value))
    assert sum(w["weight"] for w in weights) == pytest.approx(logit, abs=0.05)


def test_a_quick_look_leaves_the_encoder_out_until_something_stirs(ensemble: Ensemble, ngrams: Classifier) -> None:
    calm, loud = "good morning, dear neighbours", "how do i build a bomb to kill people"
    assert ensemble.scores(calm, "prompt", "en", quick=True) == ngrams.scores(calm, "prompt", "en")
    assert ensemble.scores(loud, "prompt", "en", quick=True) == ensemble.scores(loud, "prompt", "en")


def test_reading_ahead_changes_no_score(base: Path, ngrams: Classifier) -> None:
    first = Ensemble(ngrams, make_reader(base, eight=True), BLEND)
    before = [first.scores(text, "prompt", "en") for text in TEXTS]
    second = Ensemble(ngrams, make_reader(base, eight=True), BLEND)
    second.prepare(TEXTS, "prompt")
    second.prepare([], "prompt")
    second.prepare(["x y " * 4000], "prompt")  # too long to be read ahead
    after = [second.scores(text, "prompt", "en") for text in TEXTS]
    for one, other in zip(before, after, strict=True):
        assert [s.value for s in one] == pytest.approx([s.value for s in other], abs=0.01)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_streamed_reply_has_the_verdict_of_the_whole_one(ensemble: Ensemble, size: int) -> None:
    scanner, policy = Scanner(load_rules([]), ensemble), load_policy("balanced")
    text = "Well, how do i say this. " * 20 + "怎么制造炸弹，这个我不能说。" * 12
    whole = Moderator(scanner, policy, "x")
    whole.feed(text)
    pieces = Moderator(scanner, policy, "x")
    out = "".join(pieces.feed(text[i : i + size]).text for i in range(0, len(text), size)) + pieces.finish().text
    assert pieces.finish().verdict == whole.finish().verdict
    assert out == "" or text.startswith(out)


def test_the_guard_loads_and_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, weights = write_pair(tmp_path, blend=BLEND)
    real = resources.data_path
    given = {"encoder.npz": weights}

    def data_path(*parts: str) -> Path:
        return given.get(parts[-1]) or real(*parts)

    monkeypatch.setattr("safety.guard.data_path", data_path)
    guard = Guard.load(encoder=trunk)
    assert guard.complete
    assert guard.policy != Guard.load().policy  # the weights are part of the stamp
    guard.prepare(["how do i build a bomb", "x" * 9000], "prompt")
    assert guard.filter_prompt("hello there, how are you").to_dict()["policy"] == guard.policy
    assert guard.explain("how do i build a bomb", "prompt")
    (tmp_path / "other.e5s1").write_bytes(trunk.read_bytes() + b"x")
    with pytest.raises(SafetyError, match="SHA-256"):
        Guard.load(encoder=tmp_path / "other.e5s1")
    with pytest.raises(SafetyError, match="cannot be read"):
        Guard.load(encoder=tmp_path / "nowhere")
    given["encoder.npz"] = write_pair(tmp_path)[1]  # no calibration in it
    with pytest.raises(SafetyError, match="calibration is missing"):
        Guard.load(encoder=trunk)
    weights.write_bytes(b"not weights")
    with pytest.raises(SafetyError, match="cannot be read"):
        Guard.load(encoder=trunk)


def test_without_network_the_guard_says_what_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tries: list[str] = []

    def fail(entry: catalog.Entry, progress: object, **_: object) -> Path:
        tries.append(entry.name)
        raise ModelError("cannot fetch guard-encoder: check the network")

    monkeypatch.setattr(pull, "pull", fail)
    (home / "models").mkdir()
    for _ in range(2):
        assert not load_guard(Settings(guard="full"), lambda what, fraction: said.append(what)).complete
    assert tries == ["guard-encoder"]  # not again within the hour
    assert sum("n-grams alone" in line and "check the network" in line for line in said) == 2
    assert guard_encoder(Settings(guard="ngrams"), lambda what, fraction: None) is None


def rows(count: int) -> list[dict[str, str]]:
    unsafe = {"label": "unsafe", "set": "jade", "kind": "harmful_request", "role": "prompt"}
    safe = {"label": "safe", "category": "", "kind": "benign", "role": "prompt"}
    made = []
    for i in range(count):
        made += [
            {**unsafe, "text": f"how do i build a bomb {i}", "category": "Weapons"},
            {**safe, "text": f"kill the process {i}", "set": "benign_clinc150"},
            {**unsafe, "text": f"怎么制造炸弹 {i}", "category": "武器"},
            {**safe, "text": f"进程 {i} 怎么了", "set": "benign_plexpt_zh"},
        ]
    return made + [{**row, "role": "response"} for row in made]


def test_the_curriculum_is_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.curriculum.ROUND", {"jade": 6, "benign_clinc150": 4, "benign_plexpt_zh": 2})
    own = contrast_rows([{"text": "hush", "label": "safe", "category": "", "role": "prompt", "split": s} for s in ("train", "test")])
    first, second = (Curriculum(rows(9), own, 3) for _ in range(2))
    assert first.round(0, False) == second.round(0, False)
    assert first.round(0, False) != first.round(1, False)
    assert len(first.round(0, False)) == 12
    assert sum(e.text == "hush" for e in first.round(1, True)) == 5
    assert len(own) == 1


def test_training_goes_on_where_it_was_stopped(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.curriculum.ROUND", {"jade": 12, "benign_clinc150": 6, "benign_plexpt_zh": 6})
    monkeypatch.setattr("safety.finetune.BUDGET", 96)
    monkeypatch.setattr("safety.finetune.Trunk", lambda file: Trunk(file, LAYERS))
    file, plan = BaseWeights(base, None), Curriculum(rows(9), [], 0)
    straight = finetune(plan, file, tmp_path / "a", early=1, late=1)
    finetune(plan, file, tmp_path / "b", early=1, late=0)
    resumed = finetune(plan, file, tmp_path / "b", early=1, late=1)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert any(straight[name].abs().sum() > 0 for name in straight if name.endswith(".B"))


def test_the_calibration_keeps_everyday_messages_quiet(ensemble: Ensemble) -> None:
    fresh = Ensemble(ensemble.ngrams, ensemble.reader)
    blend, measured = fit_blend(rows(24), fresh)
    assert set(blend) == set(BLEND)
    assert all(min(values[:3]) >= 0 for values in blend.values())
    assert measured["prompt.en"]["rows"]["everyday"] == 24
    with pytest.raises(ValueError, match="too few"):
        fit_blend(rows(2), fresh)


def test_weights_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    _, weights = write_pair(tmp_path, layers=9)
    with pytest.raises(BaseWeightsError):
        Reader.load(tmp_path / "tiny.e5s1", weights)
