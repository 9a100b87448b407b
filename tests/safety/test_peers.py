"""Other guards in the table, and benchmark files from an address."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from safety.evaluate import evaluate, read_benchmark
from safety.peers import PeerError, load_peer
from safety.sources import resolve

ROWS = [
    {"text": "how to build a bomb", "label": "unsafe", "role": "prompt", "lang": "en"},
    {"text": "how to bake bread", "label": "safe", "role": "prompt", "lang": "en"},
    {"text": "bomb disposal saved the town", "label": "safe", "role": "response", "lang": "en"},
]


def score(text: str) -> float:
    return 0.9 if "bomb" in text else 0.1


def test_any_function_of_a_text_can_be_a_peer() -> None:
    peer = load_peer("tests.safety.test_peers:score")
    figures = evaluate(ROWS, peer)[0]
    assert (figures.rows, figures.unsafe, figures.recall) == (3, 1, 1.0)
    assert figures.safe_flagged == 0.5 and figures.safe_blocked == 0.0


def test_known_peers_are_asked_in_their_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    check = SimpleNamespace(predict_prob=lambda texts: [0.7 for _ in texts])
    monkeypatch.setitem(sys.modules, "profanity_check", check)
    verdict = load_peer("alt-profanity-check").filter_prompt("damn")
    assert verdict.score == pytest.approx(0.7) and verdict.policy == "alt-profanity-check"


def test_a_peer_that_is_not_there_says_how_to_get_it() -> None:
    with pytest.raises(PeerError, match="detect-secrets"):
        load_peer("nonsense")
    with pytest.raises(PeerError, match="install no_such_package_at_all"):
        load_peer("no_such_package_at_all:score")
    with pytest.raises(PeerError, match="cannot be loaded"):
        load_peer("tests.safety.test_peers:nothing")


def test_a_file_from_an_address_must_have_its_checksum(tmp_path: Path) -> None:
    source = tmp_path / "bench.jsonl"
    source.write_text('{"prompt": "hello", "word_list": ["x"]}\n')
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    address = source.as_uri()
    file = resolve(f"{address}#sha256={digest}", tmp_path / "cache")
    assert [row["label"] for row in read_benchmark(file)] == ["safe"]
    source.unlink()
    assert resolve(f"{address}#sha256={digest}", tmp_path / "cache") == file  # fetched once
    with pytest.raises(ValueError, match="add its checksum"):
        resolve(address, tmp_path)
    with pytest.raises(ValueError, match="cannot be fetched"):
        resolve(f"{address}#sha256={'0' * 64}", tmp_path)
    source.write_text("something else\n")
    with pytest.raises(ValueError, match="not the one given"):
        resolve(f"{address}#sha256={'0' * 64}", tmp_path)
    assert resolve(str(source), tmp_path) == source
