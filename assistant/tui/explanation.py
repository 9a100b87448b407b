"""One explanation being computed behind the inspector, and the ones that were computed before. Knows no widget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from textual.message import Message

from assistant.tui.backend import SessionLike
from assistant.tui.tokens import Unit
from explain.attribution import Attribution

METHODS = ("ablation", "integrated-gradients", "gradient-norm", "learned-attention", "contextcite", "balanced-ablation")


@dataclass
class ExplainProgress(Message):
    """How far the explanation is."""

    what: str
    fraction: float | None


@dataclass
class Explained(Message):
    """The explanation is there, and in the ledger."""

    token: int | None
    attribution: Attribution


@dataclass
class Ablated(Message):
    """The model was run again without a part of the prompt."""

    found: Any
    """An `assistant.deletion.Ablation`."""


@dataclass
class ExplainFailed(Message):
    """There is none; `cancelled` when the person wanted it so."""

    error: Exception
    cancelled: bool


class Explanation:
    """Computes one attribution in a daemon thread from the moment it is made."""

    def __init__(
        self,
        session: SessionLike,
        turn: str,
        method: str,
        token: int | None,
        post: Callable[[Message], object],
        against: int | None = None,
    ) -> None:
        self.method, self.token, self.against = method, token, against
        self._cancel = threading.Event()
        self._session, self._turn, self._post = session, turn, post
        threading.Thread(target=self._run, name="explain", daemon=True).start()

    def cancel(self) -> None:
        """Stop as soon as possible."""
        self._cancel.set()

    def _progress(self, what: str, fraction: float | None) -> None:
        if not self._cancel.is_set():
            self._post(ExplainProgress(what, fraction))

    def _run(self) -> None:
        try:
            attribution = self._session.explain(
                self._turn, method=self.method, token=self.token, against=self.against, progress=self._progress, cancel=self._cancel
            )
        except Exception as error:  # handed to the screen, which shows it
            self._post(ExplainFailed(error, self._cancel.is_set()))
        else:
            self._post(Explained(self.token, attribution))


def ablate(
    session: SessionLike, turn: str, inputs: Sequence[str], part: Sequence[int], token: int, post: Callable[[Message], object]
) -> None:
    """Run the model once more without a part of the prompt, in a daemon thread; `post` is called with what came of it."""

    def run() -> None:
        try:
            found = session.ablate(turn, inputs=inputs, part=part, token=token)
        except Exception as error:  # handed to the screen, which shows it
            post(ExplainFailed(error, False))
        else:
            post(Ablated(found))

    threading.Thread(target=run, name="ablate", daemon=True).start()


def find(
    kept: Sequence[Attribution], method: str, units: Sequence[Unit], picked: int | None, against: int | None = None
) -> tuple[Attribution, int | None] | None:
    """The newest kept attribution by `method` of the unit `picked` (None: the whole reply), and the row that holds it.

    With `against`, why its token rather than the one with that id.
    Row None means all rows together. A matrix has one row for every unit of the reply; a vector explains one target.
    """
    for attribution in reversed(kept):
        if attribution.method != method:
            continue
        if against is not None:
            if picked is not None and attribution.target in {f"token {i} not {against}" for i in units[picked].indices}:
                return attribution, None
            continue
        if attribution.target == "reply":
            if picked is None:
                return attribution, None
            if len(attribution.output_tokens) == len(units):
                return attribution, picked
        elif picked is not None and attribution.target in {f"token {i}" for i in units[picked].indices}:
            return attribution, None
    return None


def row_scores(attribution: Attribution, row: int | None) -> tuple[float, ...]:
    """The scores of one row, or of all rows together."""
    return attribution.totals if row is None else attribution.scores[row]
