"""One running program: settings, ledger, and (once loaded) engine and guard. Both front ends hold exactly one.

Creating a session is cheap and imports no torch; `load` does the heavy part and can run behind the first paint.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from assistant import pipeline
from assistant.events import Event
from assistant.pipeline import Request
from assistant.settings import Settings
from assistant.turn import SERVED

if TYPE_CHECKING:
    from assistant import engines
    from assistant.deletion import Ablation
    from assistant.lm.engine import Engine
    from assistant.store.ledger import Ledger
    from assistant.verdicts import Side
    from explain.attribution import Attribution
    from safety.guard import Guard

Progress = Callable[[str, float | None], None]
"""Called with what is being done and the fraction done (None: unknown)."""


class Session:
    """Everything a front end needs: `load()`, then `respond()` and `explain()`; `ledger` works from the start."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        self.engine: engines.Engine | None = None
        self.guard: Guard | None = None
        self._busy = threading.Lock()  # one model, one computation at a time

    @property
    def ready(self) -> bool:
        """Whether `load` has finished."""
        return self.engine is not None and self.guard is not None

    def load(self, progress: Progress = lambda what, fraction: None) -> None:
        """Load guard and model, fetching the model when it is missing. Raises ModelError or SafetyUnavailable."""
        from assistant.loading import load_guard

        with self._busy:
            self.guard = self.guard or load_guard(self.settings, progress)
        from assistant.loading import load_any_engine

        with self._busy:
            self.engine = self.engine or load_any_engine(self.settings, progress)

    def load_engine(self, progress: Progress = lambda what, fraction: None) -> Engine:
        """The local model alone: enough to explain and to look inside. Raises ModelError where the settings name a server."""
        from assistant.loading import load_engine

        with self._busy:
            if self.engine is None or self.settings.engine != "local":
                self.engine = load_engine(self.settings, progress)
            return cast("Engine", self.engine)

    def respond(self, request: Request, cancel: threading.Event | None = None) -> Iterator[Event]:
        """The events of one turn (see `pipeline.respond`); loads first when that has not happened."""
        if self.engine is None or self.guard is None:
            self.load()
        assert self.engine is not None and self.guard is not None
        with contextlib.nullcontext() if self.engine.concurrent else self._busy:
            yield from pipeline.respond(request, engine=self.engine, guard=self.guard, ledger=self.ledger, cancel=cancel)

    def explain(
        self,
        turn: str,
        *,
        progress: Progress = lambda what, fraction: None,
        cancel: threading.Event | None = None,
        **question: Any,
    ) -> Attribution:
        """Explain the reply of a logged turn, or the part of it that `question` asks for, and keep the explanation in the ledger.

        question: the fields of `contrasting.Question` (method, token, span, sentence, contrast, against, than, level …). Raises
        ExplanationError when the turn has no reply, its text was erased, another model is loaded, or the question makes no sense.
        """
        from assistant.contrasting import Question
        from assistant.explaining import explain_turn

        explained = self.ledger.turn(turn)
        history = self.ledger.thread(explained.parent)
        if explained.model.dtype == SERVED:
            from assistant.served.explaining import explain_served

            attribution = explain_served(self.settings, explained, history, Question(**question), progress=progress, cancel=cancel)
        else:
            engine = self.load_engine(progress)
            with self._busy:
                asked = Question(**question)
                other = self.ledger.turn(asked.than) if asked.than else None
                attribution = explain_turn(engine, explained, history, asked, other=other, progress=progress, cancel=cancel)
        self.ledger.record_attribution(explained.id, attribution)
        return attribution

    def explain_verdict(
        self, turn: str, side: Side, *, counterfactual: bool = False, progress: Progress = lambda what, fraction: None
    ) -> Attribution:
        """Where the safety verdict on a turn's prompt or reply came from; kept in the ledger. Needs no model, only the guard."""
        from assistant.lm.energy import Meter
        from assistant.loading import load_guard
        from assistant.verdicts import explain_verdict

        explained = self.ledger.turn(turn)
        with self._busy:
            self.guard = self.guard or load_guard(self.settings, progress)
            meter = Meter(self.settings.watts_per_core)
            meter.start()
            try:
                attribution = explain_verdict(self.guard, explained, side, counterfactual=counterfactual)
            finally:
                meter.stop()
        joules, source = meter.read()
        attribution = replace(attribution, quality={**attribution.quality, "joules": joules, "energy_source": source})
        self.ledger.record_attribution(explained.id, attribution)
        return attribution

    def lens(self, turn: str, token: int, progress: Progress = lambda what, fraction: None) -> list[list[tuple[str, float]]]:
        """What each layer would have said at reply token `token`: its likeliest texts and their probabilities. Nothing is logged."""
        from assistant.explaining import lens

        engine = self.load_engine(progress)
        with self._busy:
            return lens(engine, self.ledger.turn(turn), token)

    def heads(self, turn: str, token: int, progress: Progress = lambda what, fraction: None) -> list[list[list[tuple[str, float]]]]:
        """What each attention head listened to when reply token `token` was chosen (see `explaining.heads`). Nothing is logged."""
        from assistant.explaining import heads

        engine, looked = self.load_engine(progress), self.ledger.turn(turn)
        with self._busy:
            return heads(engine, looked, self.ledger.thread(looked.parent), token)

    def ablate(self, turn: str, *, inputs: Sequence[str], part: Sequence[int], token: int) -> Ablation:
        """Run the model once more without a part of the prompt (see `deletion.ablate_turn`), and keep the change in the ledger.

        Raises ExplanationError.
        """
        from assistant.deletion import ablate_turn
        from explain.attribution import Attribution

        engine = self.load_engine()
        explained = self.ledger.turn(turn)
        history = self.ledger.thread(explained.parent)
        with self._busy:
            found = ablate_turn(engine, explained, history, inputs=inputs, part=part, token=token)
        change = found.before - found.after
        card = {"log_prob": found.before, "log_prob_without": found.after, "candidates": [[c.text, c.logprob] for c in found.candidates]}
        written = explained.tokens[token].text
        self.ledger.record_attribution(
            explained.id, Attribution("deletion", f"token {token}", (found.removed,), (written,), ((change,),), card)
        )
        return found
