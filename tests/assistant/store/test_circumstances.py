"""What can change a reply is logged before the first reply that it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from assistant.audit.redact import redact
from assistant.audit.review import add_review
from assistant.audit.verify import verify
from assistant.cli.audit import audit
from assistant.store.ledger import Ledger
from assistant.turn import ModelInfo, Sampling
from explain.attribution import Attribution

from .conftest import log_turn
from .factory import ALLOW, BLOCK, make_turn


def events(ledger: Ledger) -> list[dict[str, Any]]:
    return [json.loads(text) for (text,) in ledger.query("SELECT record FROM ledger WHERE seq > 1 ORDER BY seq")]


def test_changes(path: Path) -> None:
    with Ledger.open(path) as ledger:
        log_turn(ledger)
        log_turn(ledger, sampling=Sampling(seed=77, temperature=0.1 + 0.2))  # another seed and stop strings are no change
        log_turn(ledger, sampling=Sampling(seed=1, temperature=0.5))
        log_turn(ledger, sampling=Sampling(seed=1, temperature=0.5), model=ModelInfo("other", "ff", "int4", "cpu"))
        log_turn(
            ledger, sampling=Sampling(seed=1, temperature=0.5), model=ModelInfo("other", "ff", "int4", "cpu"),
            prompt_verdict=replace(ALLOW, policy="strict@2"),
        )  # fmt: skip
        found = events(ledger)
        kinds = [event["kind"] for event in found]
        turn = ["intent", "output"]
        assert kinds == ["session", *turn, *turn, "config.change", *turn, "model.load", *turn, "policy.change", *turn]
        assert found[0]["policy"] == ALLOW.policy and found[0]["sampling"]["temperature"] == "0.30000000000000004"
        assert found[5]["sampling"]["temperature"] == "0.5" and "seed" not in found[5]["sampling"]
        assert found[8]["weights"] == "ff" and found[11]["policy"] == "strict@2"
        assert {"app", "python", "sqlite", "system", "machine"} <= found[0].keys()
    with Ledger.open(path) as ledger:
        log_turn(ledger)
        assert [event["kind"] for event in events(ledger)[-4:]] == ["checkpoint", "session", *turn]


def test_what_moderation_did_is_an_event_of_its_own(ledger: Ledger) -> None:
    kept, cut = log_turn(ledger), log_turn(ledger, output_verdict=BLOCK, finish="blocked_output")
    found = [event for event in events(ledger) if event["kind"] in ("moderation", "output")]
    assert [(event["kind"], event["turn"]) for event in found] == [("output", kept.id), ("moderation", cut.id), ("output", cut.id)]
    assert found[1]["moderation"]["action"] == "block" and found[1]["moderation"]["policy"] == BLOCK.policy
    assert ledger.turn(cut.id) == cut
    assert verify(ledger).problems == []


def test_every_kind_of_record_that_there_is(path: Path, tmp_path: Path) -> None:
    """All that can change a reply, and all that is done with the log afterwards, stands in the chain."""
    with Ledger.open(path) as ledger:
        turn = log_turn(ledger, output_verdict=BLOCK, finish="blocked_output")
        log_turn(
            ledger, sampling=Sampling(seed=1, temperature=0.5), model=ModelInfo("other", "ff", "int4", "cpu"),
            prompt_verdict=replace(ALLOW, policy="strict@2"),
        )  # fmt: skip
        ledger.rename(turn.conversation, "title")
        ledger.record_attribution(turn.id, Attribution("ablation", "reply", ("a",), ("c",), ((0.1,),), {}, ("user",)))
        add_review(ledger, turn.id, "safe")
        ledger.open_turn(make_turn())
    with Ledger.open(path) as ledger:
        ledger.recover()
        redact(ledger, turn.id, "asked")
    assert CliRunner().invoke(audit, ["list", "--log-access", "--db", str(path)]).exit_code == 0
    assert CliRunner().invoke(audit, ["export", "--db", str(path), "-o", str(tmp_path / "log.jsonl")]).exit_code == 0
    copy = tmp_path / "copy.db"
    assert CliRunner().invoke(audit, ["import", str(tmp_path / "log.jsonl"), "--db", str(copy)]).exit_code == 0
    with Ledger.open(copy, read_only=True) as ledger:
        assert {kind for (kind,) in ledger.query("SELECT DISTINCT kind FROM ledger")} == {
            "schema", "session", "model.load", "policy.change", "config.change", "intent", "output", "moderation", "attribution",
            "interrupted", "title", "review", "redact", "export", "access", "import", "checkpoint",
        }  # fmt: skip
        assert verify(ledger).problems == []
