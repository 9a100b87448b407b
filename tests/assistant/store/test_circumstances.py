"""What can change a reply is logged before the first reply that it changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from assistant.store.ledger import Ledger
from assistant.turn import ModelInfo, Sampling

from .conftest import log_turn
from .factory import ALLOW


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
