"""The jobs there are: judging texts, replaying and explaining logged turns, measuring how faithful explanations are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from assistant.cluster.job import Job, Result, Work
from assistant.errors import ExplanationError
from assistant.language import clean_intake
from assistant.settings import Settings
from assistant.turn import Turn

_OF_THE_RUN = ("milliseconds", "seconds", "joules", "energy_source")
"""What differs from run to run; left out, so that results can be compared byte by byte."""


def _quiet(what: str, fraction: float | None) -> None:
    """Nobody watches a worker."""


@dataclass(frozen=True)
class Moderation(Job):
    """Verdicts. An item is a row of `moderate --jsonl`: text, role, and the prompt of a response."""

    settings: Settings
    with_tokens: bool = False
    chunk: ClassVar[int] = 64

    def describe(self) -> dict[str, Any]:
        return {"job": "moderate", "policy": self.settings.policy, "guard": self.settings.guard, "tokens": self.with_tokens}

    def load(self) -> tuple[Work, str]:
        from assistant.loading import load_guard

        guard = load_guard(self.settings, _quiet)

        def work(rows: Sequence[dict[str, Any]]) -> list[Result]:
            guard.forget()  # what was read in an earlier chunk was read beside other texts
            for role in ("prompt", "response"):
                guard.prepare([clean_intake(row["text"]) for row in rows if row["role"] == role and not row.get("prompt")], role)
            return [judge(row) for row in rows]

        def judge(row: dict[str, Any]) -> Result:
            text = clean_intake(row["text"])
            asked = clean_intake(str(row.get("prompt", "")))
            verdict = guard.filter_prompt(text) if row["role"] == "prompt" else guard.moderate(text, prompt=asked)
            out = _lasting(verdict.to_dict())
            if self.with_tokens:
                out["tokens"] = guard.explain(text, row["role"])
            return out

        return work, f"{guard.policy}{'' if guard.complete else ' without encoder'}"


@dataclass(frozen=True)
class LoggedTurn:
    """A turn with what came before it, as a worker without the log needs it."""

    turn: Turn
    history: tuple[Turn, ...]
    """The turns that were its context, oldest first; with tokens where their keys were still in the cache."""


@dataclass(frozen=True)
class Replaying(Job):
    """`audit replay` of each turn."""

    model: str | None
    exact: bool
    safety: bool
    steps: bool

    def describe(self) -> dict[str, Any]:
        return {"job": "replay", **asdict(self)}

    def load(self) -> tuple[Work, str]:
        from assistant.audit.engines import Engines
        from assistant.audit.replay import replay_turn

        engines = Engines(self.model)

        def work(items: Sequence[LoggedTurn]) -> list[Result]:
            out = []
            for item in items:
                turn, history = item.turn, list(item.history)
                engine = engines.engine(turn.model) if turn.tokens and not turn.erased else None
                guard = engines.guard(turn.prompt_verdict.policy) if self.safety else None
                found = replay_turn(turn, history, history if turn.usage.cached_tokens else [], engine, guard, exact=self.exact)
                out.append(found.to_dict(steps=self.steps))
            return out

        return work, ""


@dataclass(frozen=True)
class Explaining(Job):
    """The explanation of each turn's reply; where there is none, why."""

    settings: Settings
    method: str
    level: str
    seed: int

    def describe(self) -> dict[str, Any]:
        settings = {name: getattr(self.settings, name) for name in ("model", "dtype", "device", "chat_format", "context")}
        return {"job": "explain", "method": self.method, "level": self.level, "seed": self.seed, **settings}

    def load(self) -> tuple[Work, str]:
        from assistant.contrasting import Question
        from assistant.explaining import explain_turn
        from assistant.loading import load_engine

        engine = load_engine(self.settings, _quiet)
        question = Question(method=self.method, level=self.level, seed=self.seed)

        def work(items: Sequence[LoggedTurn]) -> list[Result]:
            out: list[Result] = []
            for item in items:
                try:
                    found = explain_turn(engine, item.turn, item.history, question).to_dict()
                    out.append({"turn": item.turn.id, **found, "quality": _lasting(found["quality"])})
                except ExplanationError as error:
                    out.append({"turn": item.turn.id, "error": str(error)})
            return out

        return work, f"{engine.info.sha256[:12]} {engine.info.dtype}"


@dataclass(frozen=True)
class Faithfulness(Job):
    """`evaluate explain` on one prompt: an item is its number, its language and its text."""

    settings: Settings

    def describe(self) -> dict[str, Any]:
        return {"job": "faithfulness", **{name: getattr(self.settings, name) for name in ("model", "dtype", "device", "context")}}

    def load(self) -> tuple[Work, str]:
        from assistant.benchmarks.faithfulness import measure
        from assistant.explaining import coefficients
        from assistant.loading import load_engine

        engine = load_engine(self.settings, _quiet)
        fitted = coefficients(engine)

        def work(items: Sequence[tuple[int, str, str]]) -> list[Result]:
            named = {"model": engine.info.name, "dtype": engine.info.dtype}
            return [{**named, "language": lang, "methods": measure(engine, text, number, fitted)} for number, lang, text in items]

        return work, f"{engine.info.name} {engine.info.dtype} {engine.info.sha256[:12]}"


def _lasting(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in _OF_THE_RUN}
