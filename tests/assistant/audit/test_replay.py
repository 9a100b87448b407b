"""Replays with a real (tiny) engine: an honest reply is EXACT or CONSISTENT, and whatever was changed is noticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from assistant.audit.redact import redact
from assistant.audit.replay import CLOSE, SAME, Outcome, judge, replay
from assistant.cli.audit import audit
from assistant.lm.engine import Engine
from assistant.pipeline import Request, respond
from assistant.store.ledger import Ledger
from assistant.turn import Sampling, Turn
from safety.verdict import Action, Verdict
from tests.assistant.store.conftest import log_turn
from tests.assistant.store.factory import make_turn


class OpenGuard:
    """Lets everything pass, and can change its mind."""

    policy = "open@0"
    action = Action.ALLOW

    def filter_prompt(self, text: str, *, context: Sequence[tuple[str, str]] = ()) -> Verdict:
        return Verdict(self.action, 0.1 * len(context), policy=self.policy)

    def moderate(self, text: str, *, prompt: str = "", system: str = "") -> Verdict:
        return Verdict(Action.ALLOW, policy=self.policy)

    def notices(self, language: str) -> tuple[str, ...]:
        return ()

    def moderator(self, prompt: str, *, system: str = "") -> Any:
        verdict = Verdict(Action.ALLOW, policy=self.policy)
        return SimpleNamespace(
            feed=lambda text: SimpleNamespace(text=text, verdict=verdict), finish=lambda: SimpleNamespace(text="", verdict=verdict)
        )

    def refusal(self, verdict: Verdict, language: str) -> str:
        return "no"


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, dtype="float32", device="cpu", thread_count=1)


@pytest.fixture
def rescorer(engine: Engine) -> Any:
    from assistant.audit.rescore import EngineReplay

    return EngineReplay(engine)


def chat(ledger: Ledger, engine: Engine, *samplings: Sampling) -> list[Turn]:
    turns: list[Turn] = []
    engine.cache.keep_prefix(())
    for i, sampling in enumerate(samplings):
        request = Request(f"question {i}?", sampling, parent=turns[-1].id if turns else None, system="Be brief.")
        *_, last = respond(request, engine=engine, guard=OpenGuard(), ledger=ledger)  # type: ignore[arg-type]
        turns.append(last.turn)  # type: ignore[union-attr]
    return turns


SAMPLINGS = (
    Sampling(seed=1, max_tokens=12),
    Sampling(seed=2, max_tokens=12, temperature=0.0),
    Sampling(seed=2**63 + 5, max_tokens=12, temperature=1.3, top_k=0, top_p=0.8, min_p=0.01, repetition_penalty=1.3),
)


def test_honest_replies(ledger: Ledger, engine: Engine, rescorer: Any) -> None:
    turns = chat(ledger, engine, *SAMPLINGS)
    assert turns[1].usage.cached_tokens > 0
    for turn in turns:
        fast = replay(ledger, turn.id, rescorer, OpenGuard())
        assert (fast.outcome, fast.prompt, fast.mismatches) == (Outcome.CONSISTENT, "same", 0)
        assert fast.safety == {"prompt": "same", "reply": "same"} and fast.is_faithful
        exact = replay(ledger, turn.id, rescorer, exact=True)
        assert (exact.outcome, exact.worst_logprob, exact.worst_margin) == (Outcome.EXACT, 0.0, 0.0)
        assert exact.environment["sampler"] == "gumbel-sha256/2"
        assert len(fast.steps) == fast.tokens and max(delta for delta, _ in fast.steps) == fast.worst_logprob
        assert "steps" not in fast.to_dict()
        assert fast.to_dict(steps=True)["steps"][0] == {"delta_logprob": fast.steps[0][0], "margin": 0.0}


def forge(turn: Turn, **sampling: Any) -> Turn:
    return replace(turn, sampling=replace(turn.sampling, **sampling))


def swapped(turn: Turn) -> Turn:
    tokens = list(turn.tokens)
    tokens[3] = replace(tokens[3], id=(tokens[3].id + 1) % 256)
    return replace(turn, tokens=tuple(tokens))


FORGERIES: dict[str, tuple[Any, set[Outcome]]] = {
    "seed": (lambda t: forge(t, seed=99), {Outcome.SAMPLER_MISMATCH}),
    "temperature": (lambda t: forge(t, temperature=0.1), {Outcome.SAMPLER_MISMATCH}),
    "top-k": (lambda t: forge(t, top_k=1), {Outcome.SAMPLER_MISMATCH}),
    "token": (swapped, {Outcome.MODEL_MISMATCH, Outcome.SAMPLER_MISMATCH}),
    "prompt ids": (
        lambda t: replace(t, prompt_ids=t.prompt_ids[:5] + t.prompt_ids[6:]),
        {Outcome.MODEL_MISMATCH, Outcome.SAMPLER_MISMATCH},
    ),
    "probability": (lambda t: replace(t, tokens=(replace(t.tokens[0], logprob=-9.0), *t.tokens[1:])), {Outcome.MODEL_MISMATCH}),
    "not a number": (lambda t: replace(t, tokens=(replace(t.tokens[0], logprob=float("nan")), *t.tokens[1:])), {Outcome.MODEL_MISMATCH}),
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("exact", [False, True])
def test_forgeries(ledger: Ledger, engine: Engine, rescorer: Any, name: str, exact: bool) -> None:
    change, expected = FORGERIES[name]
    (turn,) = chat(ledger, engine, Sampling(seed=1, max_tokens=24, temperature=1.0))
    forged = change(replace(turn, id="FORGED"))
    ledger.open_turn(forged)
    ledger.close_turn(forged)
    result = replay(ledger, "FORGED", rescorer, exact=exact)
    assert result.outcome in expected and not result.is_faithful
    json.dumps(result.to_dict(), allow_nan=False) if name != "not a number" else None


def test_another_prompt_text(ledger: Ledger, engine: Engine, rescorer: Any) -> None:
    (turn,) = chat(ledger, engine, SAMPLINGS[0])
    forged = replace(turn, id="FORGED", prompt="another question?")
    ledger.open_turn(forged)
    ledger.close_turn(forged)
    result = replay(ledger, "FORGED", rescorer)
    assert (result.outcome, result.prompt, result.is_faithful) == (Outcome.CONSISTENT, "differs", False)


def test_a_raw_continuation(ledger: Ledger, engine: Engine, rescorer: Any) -> None:
    *_, last = respond(
        Request("Once upon", SAMPLINGS[0], raw=True),
        engine=engine,
        guard=OpenGuard(),
        ledger=ledger,  # type: ignore[arg-type]
    )
    assert replay(ledger, last.turn.id, rescorer, exact=True).outcome is Outcome.EXACT  # type: ignore[union-attr]


def test_what_cannot_be_replayed(ledger: Ledger, engine: Engine, rescorer: Any) -> None:
    (turn,) = chat(ledger, engine, SAMPLINGS[0])
    assert "not here" in replay(ledger, turn.id, None).reason
    other = log_turn(ledger)
    assert "another model file" in replay(ledger, other.id, rescorer).reason
    blocked = make_turn(tokens=(), prompt_ids=(), finish="blocked_prompt")
    ledger.open_turn(blocked)
    ledger.close_turn(blocked)
    assert "nothing was generated" in replay(ledger, blocked.id, rescorer).reason
    redact(ledger, turn.id, "asked")
    result = replay(ledger, turn.id, rescorer, OpenGuard())
    assert result.outcome is Outcome.NOT_REPLAYABLE and "erased" in result.reason and result.is_faithful


def test_verdicts_are_replayed(ledger: Ledger, engine: Engine) -> None:
    (turn,) = chat(ledger, engine, SAMPLINGS[0])
    strict = OpenGuard()
    strict.action = Action.BLOCK
    result = replay(ledger, turn.id, None, strict)
    assert result.safety["prompt"].startswith("now block") and not result.is_faithful
    strict.policy = "strict@1"
    assert replay(ledger, turn.id, None, strict).safety["prompt"] == "it was judged by open@0, here is strict@1"


def test_the_outcomes() -> None:
    assert judge([0.0], [0.0], SAME, exact=True)[0] is Outcome.EXACT
    assert judge([0.0], [0.0], SAME, exact=False)[0] is Outcome.CONSISTENT
    assert judge([1e-5], [0.0], SAME, exact=True)[0] is Outcome.CONSISTENT
    assert judge([0.01], [0.0], SAME, exact=True)[0] is Outcome.MODEL_MISMATCH
    assert judge([0.01], [0.1], CLOSE, exact=True)[0] is Outcome.CONSISTENT
    assert judge([0.0], [float("inf")], CLOSE, exact=True) == (Outcome.SAMPLER_MISMATCH, "the sampler would not have chosen token 0")
    assert judge([float("nan")], [0.0], CLOSE, exact=True)[0] is Outcome.MODEL_MISMATCH


def test_the_command(path: Path, engine: Engine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_THREADS", "1")  # as many as the engine above has: then even the bits agree
    with Ledger.open(path) as ledger:
        turns = chat(ledger, engine, *SAMPLINGS)
        log_turn(ledger)
    command = ["replay", "--no-safety", "--db", str(path), "--model", str(tiny_model)]
    result = CliRunner().invoke(audit, [*command, turns[0].id, "--json"])
    (value,) = json.loads(result.stdout)
    assert result.exit_code == 0 and value["outcome"] == "CONSISTENT" and value["faithful"]
    result = CliRunner().invoke(audit, [*command, "--sample", "9", "--exact"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("EXACT") == 3 and result.stdout.count("NOT-REPLAYABLE") == 1
    result = CliRunner().invoke(audit, [*command, turns[0].id, "--tokens"])
    assert result.exit_code == 0 and result.stdout.count("margin") == 1 + len(turns[0].tokens)
    assert CliRunner().invoke(audit, command).exit_code == 2
