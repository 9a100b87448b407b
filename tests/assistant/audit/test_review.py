"""The review queue, labels, the figures that follow from them, and the training data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from assistant.audit.redact import redact
from assistant.audit.remarks import note_of, remarks
from assistant.audit.review import add_review, login_name, queue, reviews, training_rows
from assistant.audit.stats import bars, group, judged, latencies
from assistant.cli.audit import audit
from assistant.errors import LedgerError, UsageError
from assistant.store.ledger import Ledger
from safety.verdict import Action, Verdict
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import BLOCK, make_tokens


def run(*args: object) -> Result:
    return CliRunner().invoke(audit, [str(a) for a in args])


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    for i in range(6):
        verdict = Verdict(Action.ALLOW, i / 10, {"toxicity": i / 10}, policy="p")
        log_turn(ledger, id=f"A{i}", prompt_verdict=verdict, output_verdict=None, language="zh" if i % 2 else "en")
    for i in range(3):
        verdict = Verdict(Action.CAUTION, 0.6 + i / 10, {"toxicity": 0.6 + i / 10}, policy="p")
        log_turn(ledger, id=f"F{i}", prompt_verdict=verdict, output_verdict=None)
    log_turn(
        ledger,
        id="OUT",
        output_verdict=BLOCK,
        finish="blocked_output",
        reply="I cannot.",
        tokens=make_tokens("how", " to"),
    )
    return ledger


def test_queues(filled: Ledger) -> None:
    assert [row.turn for row in queue(filled, "flagged", 10)] == ["OUT", "F2", "F1", "F0"]
    assert [row.turn for row in queue(filled, "margin", 4)] == ["A5", "F0", "A4", "F1"]
    sample = [row.turn for row in queue(filled, "random", 5, seed=7)]
    assert sample == [row.turn for row in queue(filled, "random", 5, seed=7)] and len(set(sample)) == 5
    add_review(filled, "F2", "safe")
    assert [row.turn for row in queue(filled, "flagged", 1)] == ["OUT"]
    assert [row.turn for row in queue(filled, "flagged", 10)] == ["OUT", "F1", "F0"]
    assert len(queue(filled, "random", 100)) == 9


def test_the_last_review_of_a_text_counts(filled: Ledger) -> None:
    add_review(filled, "F0", "unsafe", category="insult", note="初审", reviewer="Ann")
    add_review(filled, "F0", "safe", note="a joke", reviewer="Bo")
    add_review(filled, "OUT", "unsafe")
    found = reviews(filled)
    assert [(r.turn, r.side, r.label, r.note, r.reviewer) for r in found] == [
        ("F0", "prompt", "safe", "a joke", "Bo"),
        ("OUT", "reply", "unsafe", "", ""),
    ]
    records = filled.query("SELECT record FROM ledger WHERE kind = 'review'")
    assert "Bo" not in str(records) and "joke" not in str(records)
    with pytest.raises(UsageError, match="no reply"):
        add_review(filled, "A0", "safe", side="reply")


def test_quick_marks_of_the_terminal_application(filled: Ledger) -> None:
    for turn, mark in (("F0", "right"), ("F1", "wrong_block"), ("A0", "right"), ("A1", "wrong_pass"), ("A2", "unsure")):
        filled.record_event("review", {"turn": turn, "label": mark})
    assert [r.label for r in reviews(filled)] == ["unsafe", "safe", "safe", "unsafe", "unsure"]
    assert [r.side for r in reviews(filled)] == ["prompt"] * 5


def test_rates(filled: Ledger) -> None:
    for turn, label in (
        ("F0", "safe"),
        ("F1", "unsafe"),
        ("A0", "safe"),
        ("A1", "safe"),
        ("A2", "unsafe"),
        ("A3", "unsure"),
    ):
        add_review(filled, turn, label)  # type: ignore[arg-type]
    prompts, replies = judged(filled)
    assert (prompts.true_positives, prompts.false_positives, prompts.true_negatives, prompts.false_negatives) == (
        1,
        1,
        2,
        1,
    )
    assert prompts.false_positive_rate == pytest.approx(1 / 3) and prompts.false_negative_rate == 0.5
    assert (replies.reviewed, replies.false_positive_rate) == (0, None)


def test_training_rows(filled: Ledger) -> None:
    add_review(filled, "A1", "safe")
    add_review(filled, "A2", "unsure")
    add_review(filled, "OUT", "unsafe", category="weapons")
    prompt, reply = training_rows(filled)
    assert (prompt["label"], prompt["role"], prompt["lang"], prompt["text"]) == (
        "safe", "prompt", "zh", "What is the weather like today?",
    )  # fmt: skip
    assert (reply["text"], reply["category"], reply["context"]) == ("how to", "weapons", prompt["text"])


def test_the_classifier_can_be_trained_on_them(filled: Ledger, tmp_path: Path) -> None:
    from safety.train import pack, read

    for turn, label, category in (("A1", "safe", ""), ("F0", "safe", ""), ("F1", "unsafe", ""), ("OUT", "unsafe", "weapons")):
        add_review(filled, turn, label, category=category)  # type: ignore[arg-type]
    file = tmp_path / "reviews.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in training_rows(filled)), "utf-8")
    rows = pack(read([file]))
    assert rows.keys == ["prompt.en.safe.everyday", "prompt.en.safe.borderline", "prompt.en.unsafe", "response.en.unsafe"]
    assert rows.lessons[-1].targets["weapons"] == 1.0


def test_groups(filled: Ledger) -> None:
    assert [(g.name, g.turns, g.flagged) for g in group(filled, "verdict")] == [
        ("allow", 6, 0), ("caution", 3, 3), ("block", 1, 1),
    ]  # fmt: skip
    assert [(g.name, g.turns) for g in group(filled, "language")] == [("en", 7), ("zh", 3)]
    assert [(g.name, g.turns) for g in group(filled, "category")] == [("(none)", 6), ("toxicity", 3), ("weapons", 1)]
    (day,) = group(filled, "day")
    assert (day.turns, day.prompt_tokens, day.reply_tokens) == (10, 120, 30)
    assert (day.seconds, day.joules) == (pytest.approx(13.75), pytest.approx(35.0))
    assert group(filled, "day", until=0) == []
    assert latencies(filled) == {"p50": 1.375, "p95": 1.375}
    (now,) = filled.query("SELECT max(ts) FROM ledger")[0]
    assert latencies(filled, since=now, until=now) and not latencies(filled, until=0)


def test_bars(filled: Ledger) -> None:
    assert bars(group(filled, "verdict"), 6) == ["░░░░░░", "▓▓▓   ", "▓     "]
    assert bars([]) == []


def test_commands(filled: Ledger, path: Path, tmp_path: Path) -> None:
    filled.close()
    assert run("review", "next", "--db", path).stdout.split()[0] == "OUT"
    assert run("review", "add", "OUT", "--label", "unsafe", "--note", "clear", "--db", path).exit_code == 0
    assert run("review", "add", "F0", "--label", "safe", "--db", path).exit_code == 0
    assert run("review", "add", "F0", "--label", "maybe", "--db", path).exit_code == 2
    assert "✗ safe" in run("review", "list", "--db", path).stdout
    assert run("review", "export", "-o", tmp_path / "rows.jsonl", "--db", path).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["unsafe", "safe"]
    text = run("stats", "--by", "verdict", "--db", path).stdout
    assert "caution" in text and "▓" in text and "falsely flagged 100.0 % of the safe" in text
    value = json.loads(run("stats", "--json", "--db", path).stdout)
    assert value["reviews"][0]["false_positives"] == 1 and value["groups"][0]["turns"] == 10
    assert json.loads(run("list", "--reviewed", "--json", "--db", path).stdout)[0]["turn"] == "OUT"
    assert run("verify", "--db", path).exit_code == 0


def test_the_remarks_about_a_turn_are_its_reviews_and_why_it_was_erased(filled: Ledger) -> None:
    add_review(filled, "F0", "unsafe", note="初审", reviewer="Ann")
    filled.record_event("review", {"turn": "F0", "label": "wrong_block"})
    add_review(filled, "F1", "safe", note="another turn")
    assert [(r.kind, r.label, r.side, r.text, r.who) for r in remarks(filled, "F0")] == [
        ("review", "unsafe", "prompt", "初审", "Ann"),
        ("review", "wrong_block", "", "", ""),
    ]
    redact(filled, "F0", "on request", actor="Bo")
    said = remarks(filled, "F0")
    assert [(r.kind, r.text, r.who) for r in said][-1] == ("redact", "on request", "Bo")
    assert [r.label for r in said] == ["unsafe", "wrong_block", ""]
    assert [r.text for r in remarks(filled, "F1")] == ["another turn"] and remarks(filled, "nobody") == []


@pytest.mark.parametrize("body", [b"not json", b"[1]", b"[" * 100_000, b""])
def test_a_note_that_cannot_be_read_is_none(body: bytes) -> None:
    assert note_of("text", body) == {} and note_of(None, None) == {}
    with pytest.raises(LedgerError, match="audit verify"):
        note_of("text", b"\xff")


def test_without_a_login_name_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", unknown)
    assert login_name() == ""
