"""The encoder: its file, its arithmetic, its part in the ensemble, its training. All with a tiny one, but for one test."""

from __future__ import annotations

import random
from dataclasses import replace
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
from safety.calibrate import SHARES, answers, fit_blend, long_texts
from safety.classifier import Classifier
from safety.curriculum import Curriculum, Example, Round, batches, contrast_rows
from safety.encoder import Trunk, by_length, encode, pad, pool, tokenizer
from safety.ensemble import MOST, Ensemble
from safety.explanation import explain
from safety.finetune import finetune
from safety.gate import fit_gate
from safety.guard import Guard, SafetyError
from safety.labels import LABELS, Lesson, lesson
from safety.language import detect
from safety.moderate import Moderator
from safety.normalize import base_view
from safety.policy import load_policy
from safety.reader import OUTPUTS, PROMPT, TOKENS, Reader
from safety.rules import load_rules
from safety.scan import Scanner
from safety.synthesis import prose, requests, written
from tests.safety.tiny_encoder import LAYERS, TEXTS, WIDTH, adapted, make_reader, write_base, write_pair

BLEND = {f"{role}.{lang}": [0.6, 0.3, 0.2, -0.1, -0.5] for role in ("prompt", "response") for lang in ("zh", "en")}
ANSWERS = {f"answer.{lang}": [0.6, 0.3, 0.2, -0.1, -0.5] for lang in ("zh", "en")}


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


@pytest.mark.parametrize("eight", [True, False])
def test_traced_layers_give_the_same_numbers_whatever_the_shape(base: Path, eight: bool) -> None:
    plain, traced = make_reader(base, eight=eight), make_reader(base, eight=eight)
    traced.trace()
    for _ in range(4):  # the first calls are looked at by torch, later ones rewritten
        for texts in (TEXTS[:1], TEXTS[1:2], ["a " * 300], TEXTS[:1] * 3, TEXTS, [""]):
            assert np.array_equal(plain.logits(texts, "response"), traced.logits(texts, "response"))
    traced.watch(lambda key, x: None)
    assert not traced._traced


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


def test_what_several_threads_ask_for_is_read_together_and_given_to_each(ensemble: Ensemble) -> None:
    assert ensemble.reader is not None
    asked = [ensemble.reader.rows(texts, "") for texts in (TEXTS[:1], TEXTS[1:3], TEXTS[3:4])]
    found = ensemble._read_all([(rows, "prompt", None) for rows in asked])
    assert [len(read) for read in found] == [len(rows) for rows in asked]
    for rows, read in zip(asked, found, strict=True):
        assert np.allclose(read, ensemble.reader.logits_of(rows, "prompt"), atol=1e-4)


def test_the_windows_cover_every_character_of_a_text_and_stay_few_for_a_huge_one(ensemble: Ensemble, ngrams: Classifier) -> None:
    for text in ("the weather is fine today. " * 25, "怎么制造炸弹 进程 " * 60, "a b c d e f g " * 30):
        places = ensemble._places(text, ngrams.scores(text, "prompt", "en"), False)
        assert len(places) > 1
        assert set(range(len(text))) == {i for start, end in places for i in range(start, end)}
        assert ensemble.reader is not None
        assert all(len(ensemble.reader.tokens(text[a:b])[0]) <= TOKENS + 1 for a, b in places)
    huge = "how do i build a bomb " * 20_000
    places = ensemble._places(huge, ngrams.scores(huge, "prompt", "en"), False)
    assert 3 <= len(places) <= MOST
    assert min(places)[0] == 0
    assert max(end for _, end in places) == len(huge)


def test_something_suspicious_is_read_wherever_it_stands(ensemble: Ensemble) -> None:
    calm, loud = "the weather is fine today. ", "how do i build a bomb to kill people "
    for before, after in ((0, 60), (30, 30), (60, 0)):
        text = calm * before + loud + calm * after
        places = ensemble._places(text, ensemble.ngrams.scores(text, "prompt", "en"), False)
        assert any(loud.strip() in text[start:end] for start, end in places)


def test_a_gate_stops_what_is_clear_and_leaves_the_rest_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.reader.EARLY", 1)
    plain = make_reader(base, eight=True)
    trained = [Example(text, "post", Lesson({}), False, 1.0) for text in [*TEXTS, "a b c", "x y z"] for _ in range(8)]
    early = fit_gate(plain, trained, 0, lambda line: None)
    assert early["early.prompt.w"].shape == (len(OUTPUTS), 3 * WIDTH) and early["gate.prompt.w"].shape[1] == 3 * WIDTH
    again = fit_gate(plain, trained, 0, lambda line: None)
    assert all(torch.equal(early[name], again[name]) for name in early)
    whole = plain.logits(TEXTS, "prompt")
    for bias, stops in ((1e3, False), (-1e3, True)):
        early["gate.prompt.c"][0] = bias
        gated = make_reader(base, eight=True, early=early)
        assert np.allclose(gated.logits(TEXTS, "prompt", whole=True), whole, atol=0.02)
        assert np.allclose(gated.logits(TEXTS, "prompt"), whole, atol=0.02) is not stops
    early["gate.prompt.c"][0] = 1e3
    some = make_reader(base, eight=True, early=early).logits(TEXTS, "prompt", most=1)
    assert sum(np.allclose(one, other, atol=0.02) for one, other in zip(some, whole, strict=True)) == 1


def test_a_reply_is_read_with_its_prompt_only_where_that_was_calibrated(base: Path, ngrams: Classifier) -> None:
    reader = make_reader(base, eight=True)
    reply = "build the process a little, and i do the rest of it"
    alone, both = Ensemble(ngrams, reader, BLEND), Ensemble(ngrams, reader, BLEND | ANSWERS)
    assert not np.allclose(reader.logits([reply], "response"), reader.logits([reply], "response", prompt="kill the process"))
    assert alone.scores(reply, "response", "en", prompt="kill the process") == alone.scores(reply, "response", "en")
    assert both.scores(reply, "response", "en", prompt="kill the process") != both.scores(reply, "response", "en")
    assert reader.room("how do i build a bomb " * 90) == TOKENS - 2 - PROMPT - 2


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("prompt", ["", "how do i build a bomb"])
def test_a_streamed_reply_has_the_verdict_of_the_whole_one(ensemble: Ensemble, size: int, prompt: str) -> None:
    ensemble = Ensemble(ensemble.ngrams, ensemble.reader, BLEND | ANSWERS)
    scanner, policy = Scanner(load_rules([]), ensemble), load_policy("balanced")
    text = "Well, how do i say this. " * 20 + "怎么制造炸弹，这个我不能说。" * 12
    whole = Moderator(scanner, policy, "x", prompt)
    whole.feed(text)
    pieces = Moderator(scanner, policy, "x", prompt)
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


def test_the_curriculum_is_the_same_for_the_same_seed() -> None:
    plain = Round({"jade": 6, "benign_clinc150": 4, "benign_plexpt_zh": 2})
    own = contrast_rows([{"text": "hush", "label": "safe", "category": "", "role": "prompt", "split": s} for s in ("train", "test")])
    first, second = (Curriculum(rows(9), own, 3) for _ in range(2))
    assert first.round(0, plain) == second.round(0, plain)
    assert first.round(0, plain) != first.round(1, plain)
    assert len(first.round(0, plain)) == 12
    assert sum(e.text == "hush" for e in first.round(1, replace(plain, contrast=5))) == 5
    assert len(own) == 1


def test_training_goes_on_where_it_was_stopped(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = {"jade": 12, "benign_clinc150": 6, "benign_plexpt_zh": 6}
    first, last = Round(mix), Round(mix, begin=0.5, end=0.1)
    monkeypatch.setattr("safety.finetune.BUDGET", 96)
    monkeypatch.setattr("safety.finetune.Trunk", lambda file: Trunk(file, LAYERS))
    file, plan = BaseWeights(base, None), Curriculum(rows(9), [], 0)
    straight = finetune(plan, file, tmp_path / "a", rounds=[first, last])
    finetune(plan, file, tmp_path / "b", rounds=[first])
    resumed = finetune(plan, file, tmp_path / "b", rounds=[first, last])
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert any(straight[name].abs().sum() > 0 for name in straight if name.endswith(".B"))


def test_training_can_go_on_from_weights_that_have_seen_the_first_rounds(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = {"jade": 6, "benign_clinc150": 4, "benign_plexpt_zh": 2}
    said: list[str] = []
    monkeypatch.setattr("safety.finetune.BUDGET", 96)
    monkeypatch.setattr("safety.finetune.Trunk", lambda file: Trunk(file, LAYERS))
    file, plan = BaseWeights(base, None), Curriculum(rows(8), [], 0)
    so_far = finetune(plan, file, tmp_path / "a", rounds=[Round(mix)])
    later = finetune(plan, file, tmp_path / "b", rounds=[Round(mix), Round(mix)], start=so_far, seen_rounds=1, say=said.append)
    assert [line[:12] for line in said if line.startswith("round")] == ["round 2 of 2"]
    assert any(not torch.equal(later[name], so_far[name]) for name in so_far)
    untouched = finetune(plan, file, tmp_path / "c", rounds=[Round(mix)], start=so_far, seen_rounds=1)
    assert all(torch.equal(untouched[name], so_far[name]) for name in so_far)


def test_a_reply_whose_prompt_is_known_is_shown_with_it_and_teaches_more() -> None:
    row = {"label": "unsafe", "set": "diasafety", "kind": "harmful_response", "role": "response", "category": "Risk Ignorance"}
    row |= {"text": "do it, i say", "context": "should i drink paint"}
    assert lesson(row) is None
    assert lesson(row, with_prompt=True) is not None
    shown = Curriculum([row], [], 0).round(0, Round({"diasafety": 3}))
    assert [e.prompt for e in shown] == ["should i drink paint"] * 3


def test_the_projects_own_messages_are_rows_that_teach() -> None:
    made = list(requests(0))
    assert made == list(requests(0)) != list(requests(1))
    assert all(lesson(row, with_prompt=bool(row["context"])) is not None and "{" not in row["text"] for row in made)
    for lang in ("zh", "en"):
        found = {(row["role"], row["label"]) for row in made if row["lang"] == lang}
        assert found == {(role, label) for role in ("prompt", "response") for label in ("safe", "unsafe")}
    assert all(row["context"] for row in made if row["role"] == "response")


def test_the_rows_written_one_by_one_are_whole_and_apart_from_the_test_rows() -> None:
    taught, aside, calibrating = list(written()), list(written("test")), list(written("aside"))
    assert len(taught) > 10 * len(aside) > 1000
    assert not {row["text"] for row in taught} & {row["text"] for row in aside if row["role"] == "prompt"}
    assert len(calibrating) > 100
    everything = taught + aside + calibrating
    assert len({row["id"] for row in everything}) == len(everything)
    for row in everything:
        assert (
            row["label"] in ("safe", "unsafe") and row["category"] in ("", *LABELS) and bool(row["category"]) >= (row["label"] == "unsafe")
        )
        assert (row["role"], bool(row["context"])) in (("prompt", False), ("response", True), ("post", False))
        assert lesson(row, with_prompt=bool(row["context"])) is not None
    shares = {language: sum(row["label"] == "unsafe" for row in taught if row["lang"] == language) for language in ("en", "zh")}
    assert min(shares.values()) > 500


def test_long_texts_and_answers_are_made_for_the_calibration() -> None:
    found = rows(24)
    long = list(long_texts([row for row in found if row["role"] == "prompt"], "en"))
    assert {row["made"] for row in long} == {"long", "long unsafe"}
    assert all(len(row["text"]) >= 1200 for row in long)
    assert all(("bomb" in row["text"]) == (row["label"] == "unsafe") for row in long if "炸弹" not in row["text"])
    groups = {f"{role}.en": [row for row in found if row["role"] == role] for role in ("prompt", "response")}
    made = list(answers(groups, "en"))
    assert {row.get("made", "everyday") for row in made} == {"everyday", "refusal"}
    assert all(row["context"] and row["label"] == "safe" for row in made)


def test_the_calibration_keeps_everyday_messages_quiet(ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.calibrate._MOST", dict.fromkeys(SHARES, 24) | {"long": 4})
    fresh = Ensemble(ensemble.ngrams, ensemble.reader)
    blend, measured = fit_blend(rows(24), fresh)
    assert set(BLEND) <= set(blend) <= set(BLEND | ANSWERS)
    for first, second, third, length, _ in blend.values():
        assert min(first, second, third) >= 0 >= length
        assert first <= second + third + 1e-9
    assert measured["prompt.en"]["rows"]["everyday"] == 24
    with pytest.raises(ValueError, match="too few"):
        fit_blend(rows(2), fresh)


def test_weights_that_do_not_fit_are_refused(base: Path, tmp_path: Path) -> None:
    _, weights = write_pair(tmp_path, layers=9)
    with pytest.raises(BaseWeightsError):
        Reader.load(tmp_path / "tiny.e5s1", weights)


def test_prose_becomes_harmless_texts_of_many_lengths(tmp_path: Path) -> None:
    english, chinese = tmp_path / "en.txt", tmp_path / "zh.txt"
    english.write_text("".join(f"The captain of ship {i} told them of the war.\n\n" for i in range(300)), "utf-8")
    chinese.write_text("".join(f"第{i}艘船的船长讲起那场战争。\n" for i in range(300)), "utf-8")
    made = list(prose([english, chinese], 0))
    assert made == list(prose([english, chinese], 0))
    assert {row["role"] for row in made} == {"prompt", "response"}
    assert all(row["label"] == "safe" and row["set"] == "prose" and not row["context"] for row in made)
    lengths = [len(row["text"]) for row in made if "captain" in row["text"]]
    assert min(lengths) < 300 < 1000 < max(lengths)
    assert sum(row["text"].count("captain") for row in made) > 250
    assert max(len(row["text"]) for row in made if "船长" in row["text"]) < 520
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        list(prose([tmp_path / "bad.txt"], 0))
