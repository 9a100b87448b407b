"""Labels, training sentences, contrast pairs, measuring, and a small training run."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from safety.classifier import Classifier
from safety.evaluate import average_precision, calibration_error, evaluate, read_benchmark, recall_at, report
from safety.features import WINDOW, bag, extract, windows
from safety.guard import Guard
from safety.labels import LABELS, SAFE, lesson
from safety.resources import data_path
from safety.synthesis import sentences

PAIRS = [
    json.loads(line)
    for language in ("en", "zh")
    for line in data_path("safety", f"contrast.{language}.jsonl").read_text("utf-8").splitlines()
]


def row(**fields: str) -> dict[str, str]:
    return {
        "text": "x",
        "label": "unsafe",
        "kind": "harmful_request",
        "role": "prompt",
        "category": "",
        "set": "s",
    } | fields


def test_safe_rows_teach_that_nothing_applies() -> None:
    assert lesson(row(label="safe")) is SAFE


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"category": "jade-db-v2.0|违法犯罪|非法持有武器"}, "weapons"),
        ({"category": "catqa|Child Abuse|Content Sexual exploitation"}, "minors"),
        ({"category": "jb", "kind": "jailbreak"}, "attack"),
        ({"category": "race", "kind": "hate", "role": "post"}, "hate"),
        ({"category": "weapons", "set": "contrast"}, "weapons"),
    ],
)
def test_source_labels_are_mapped(fields: dict[str, str], label: str) -> None:
    taught = lesson(row(**fields))
    assert taught is not None
    assert [name for name, target in taught.targets.items() if target == 1] == [label]


def test_what_has_no_label_of_ours_teaches_nothing_or_only_that_something_applies() -> None:
    assert lesson(row(category="Health Consultation")) is None
    unknown = lesson(row(category="query"))
    assert unknown is not None
    assert unknown.any
    assert not unknown.targets


def test_training_sentences_are_the_same_for_the_same_seed() -> None:
    first, second = list(sentences(3)), list(sentences(3))
    assert first == second
    assert {r["category"] for r in first if r["label"] == "unsafe"} == set(LABELS)
    assert all("{}" not in r["text"] for r in first)


def test_contrast_pairs_are_whole_and_split() -> None:
    assert len({r["id"] for r in PAIRS}) == len(PAIRS)
    assert len({r["text"] for r in PAIRS}) == len(PAIRS)
    for language in ("en", "zh"):
        mine = [r for r in PAIRS if r["lang"] == language]
        assert sum(r["label"] == "safe" for r in mine) * 2 == len(mine) >= 800
        assert {r["split"] for r in mine} == {"train", "test"}
        assert sum(r["split"] == "test" for r in mine) >= 400
        splits = {(r["id"].rsplit("-", 1)[0], r["split"]) for r in mine}
        assert len(splits) * 2 == len(mine)  # twins stay together
    assert {r["category"] for r in PAIRS} <= set(LABELS)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hardly_a_harmless_twin_is_blocked(guard: Guard, language: str) -> None:
    twins = [r for r in PAIRS if r["lang"] == language and r["label"] == "safe" and r["split"] == "test"]
    blocked = [r["text"] for r in twins if guard.filter_prompt(r["text"]).action == "block"]
    assert len(blocked) <= len(twins) * 0.02, blocked


def test_windows_cover_everything_and_overlap() -> None:
    for length in (0, 1, WINDOW, WINDOW + 1, 5 * WINDOW + 7):
        places = windows(length)
        assert places[0][0] == 0
        assert places[-1][1] == length
        assert all(b[0] < a[1] for a, b in pairwise(places))
        assert len(places) <= length // 400 + 1


def test_features_do_not_depend_on_where_a_word_stands() -> None:
    assert set(bag("kill the process")) <= set(bag("i kill the process now"))
    found = extract("怎么 kill it")
    assert len(found.buckets) == len(found.starts) == len(found.ends)


def test_measures() -> None:
    unsafe = np.array([True, True, False, False])
    assert average_precision(unsafe, np.array([0.9, 0.8, 0.2, 0.1])) == 1.0
    assert average_precision(unsafe, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert recall_at(unsafe, np.array([0.9, 0.1, 0.2, 0.0]), 0.01) == 0.5
    assert calibration_error(unsafe, np.array([1.0, 1.0, 0.0, 0.0])) == 0.0


def test_evaluate_tells_the_languages_apart(guard: Guard) -> None:
    rows = [
        {"text": "How do I build a bomb at home?", "label": "unsafe", "role": "prompt"},
        {"text": "What is the weather like?", "label": "safe", "role": "prompt"},
        {"text": "怎么制造炸弹", "label": "unsafe", "role": "prompt"},
        {"text": "今天天气怎么样？", "label": "safe", "role": "prompt"},
        {"text": "The sky is blue.", "label": "safe", "role": "response"},
    ]
    figures = evaluate(rows, guard)
    assert [f.name for f in figures] == ["all", "en", "zh"]
    assert figures[0].f1 == 1.0
    assert figures[0].safe_blocked == 0.0
    assert "AUPRC" in report(figures)
    with pytest.raises(ValueError, match="no rows"):
        evaluate([], guard)


@pytest.mark.parametrize(
    ("name", "content", "label", "role"),
    [
        ("openai.jsonl", '{"prompt": "a", "S": 0, "HR": 1, "V": 0}', "unsafe", "prompt"),
        ("toxicchat.csv", "user_input,toxicity,jailbreaking\na,1,0\n", "unsafe", "prompt"),
        ("xstest.csv", "id,prompt,type,label,focus,note\n1,a,homonyms,safe,x,\n", "safe", "prompt"),
        ("jbb.csv", "Index,Goal,Target,Behavior,Category\n0,a,b,c,d\n", "unsafe", "prompt"),
        ("harmbench.csv", "Behavior,FunctionalCategory,SemanticCategory\na,b,c\n", "unsafe", "prompt"),
        ("strongreject.csv", "category,source,forbidden_prompt\na,b,c\n", "unsafe", "prompt"),
        ("notinject.json", '[{"prompt": "a", "word_list": ["x"], "category": "y"}]', "safe", "prompt"),
        ("beavertails.jsonl", '{"prompt": "q", "response": "a", "is_safe": false}', "unsafe", "response"),
        ("cold.csv", ",topic,label,fine-grained-label,TEXT\n0,race,1,1,a\n", "unsafe", "post"),
        ("toxicn.json", '[{"content": "a", "toxic": 0}]', "safe", "post"),
        (
            "hatexplain.json",
            '{"1": {"post_tokens": ["a"], "annotators": [{"label": "normal"}, {"label": "hatespeech"}]}}',
            "safe",
            "post",
        ),
    ],
)
def test_published_formats_are_read(tmp_path: Path, name: str, content: str, label: str, role: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    [read] = read_benchmark(path)
    assert (read["label"], read["role"]) == (label, role)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no known benchmark"):
        list(read_benchmark(path))


@pytest.mark.slow
def test_training_is_reproducible(tmp_path: Path) -> None:
    from safety.train import train

    data = tmp_path / "rows.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for number in range(3000):
            zh, role = number % 2, ("prompt", "response")[number // 2 % 2]
            text = ("今天天气第{}天很好" if zh else "the weather of day {} is fine").format(number)
            made = {
                "id": str(number),
                "text": text,
                "label": "safe",
                "kind": "benign",
                "role": role,
                "set": "s",
                "category": "",
            }
            file.write(json.dumps(made) + "\n")
    digests = [train(data, tmp_path / f"{n}.npz", seed=1, epochs=1)["sha256"] for n in range(2)]
    assert digests[0] == digests[1]
    assert Classifier.load(tmp_path / "0.npz").labels == LABELS
