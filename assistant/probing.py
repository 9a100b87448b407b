"""Training a probe on a loaded model: `train(rows, engine, guard, say)` reads every reply behind its prompt, as a chat, and learns
from the states what is unsafe; then measures what the probe adds to the guard, on replies that it did not learn from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from assistant.turn import Message
from safety.evaluate import average_precision
from safety.probe import Floats, Probe, fit_probe, of_reply

if TYPE_CHECKING:
    from assistant.lm.engine import Engine
    from safety.guard import Guard

PROMPT, REPLY = 48, 48
"""Tokens of the prompt and of the reply that are read."""
_ASIDE = 4  # one reply in so many measures


class LastState:
    """An `Observer` that keeps the residual stream (L, D) behind the last layer."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self.states = torch.zeros(0)

    def attention(self, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
        """Not looked at."""

    def hidden(self, layer: int, h: torch.Tensor) -> None:
        """Keep the last layer's."""
        if layer == self._layer:
            self.states = h[0]


@torch.inference_mode()
def states(engine: Engine, prompt: str, reply: str) -> Floats:
    """(tokens of the reply, D): the states behind the model's last norm, as the decoder has them when it writes the reply."""
    asked = engine.tokenizer.decode(engine.tokenizer.encode(prompt)[:PROMPT])
    before = list(engine.render([Message("user", asked or " ")], reserve=REPLY).ids)
    ids = engine.tokenizer.encode(reply)[:REPLY]
    observer = LastState(engine.model.config.n_layers - 1)
    engine.model(torch.tensor([before + ids], device=engine.device), observer=observer)
    last = engine.model.last_norm(observer.states[len(before) :])
    found: Floats = last.float().cpu().numpy()
    return found


def train(
    rows: Sequence[Mapping[str, Any]], engine: Engine, guard: Guard, say: Callable[[str], None], *, most: int, seed: int = 0
) -> tuple[Probe, dict[str, Any]]:
    """The probe, and what was measured. Takes at most `most` replies, half of them unsafe, from all sources alike. Raises ProbeError."""
    chosen = _sample(rows, most, seed)
    gathered: list[Floats] = []
    for number, row in enumerate(chosen, 1):
        gathered.append(states(engine, str(row.get("context") or ""), row["text"]))
        if number % 200 == 0:
            say(f"{number} of {len(chosen)} replies read")
    unsafe = np.array([row["label"] == "unsafe" for row in chosen])
    aside = np.arange(len(chosen)) % _ASIDE == 0
    probe = fit_probe([s for s, out in zip(gathered, aside, strict=True) if not out], unsafe[~aside], engine.info.sha256)
    test = [i for i in np.flatnonzero(aside)]
    felt = np.array([of_reply(probe.logits(gathered[i])) for i in test])
    judged = np.array([_logit(_score(guard, chosen[i])) for i in test])
    return probe, {
        "model": engine.info.name,
        "replies": int((~aside).sum()),
        "measured_on": len(test),
        "auprc": {name: round(value, 3) for name, value in _compare(felt, judged, unsafe[test]).items()},
    }


def _compare(felt: np.ndarray[Any, Any], judged: np.ndarray[Any, Any], unsafe: np.ndarray[Any, Any]) -> dict[str, float]:
    """Average precision of the probe, of the guard, and of their best sum, chosen on one half of the replies, told on the other."""
    half = np.arange(len(felt)) % 2 == 0
    weights = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
    best = max(weights, key=lambda w: average_precision(unsafe[half], judged[half] + w * felt[half]))
    return {
        "probe": average_precision(unsafe[~half], felt[~half]),
        "guard": average_precision(unsafe[~half], judged[~half]),
        "both": average_precision(unsafe[~half], judged[~half] + best * felt[~half]),
        "weight": best,
    }


def _sample(rows: Sequence[Mapping[str, Any]], most: int, seed: int) -> list[Mapping[str, Any]]:
    """Replies of each label, the sources in turn, so that no source drowns the others."""
    chosen: list[Mapping[str, Any]] = []
    for label in ("safe", "unsafe"):
        sources: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row.get("role") == "response" and row["label"] == label:
                sources.setdefault(row.get("set", ""), []).append(row)
        for name, found in sorted(sources.items()):
            random.Random(f"{seed} {name} {label}").shuffle(found)
        taken = [found[i] for i in range(most) for found in (sources[name] for name in sorted(sources)) if i < len(found)]
        chosen += taken[: most // 2]
    random.Random(seed).shuffle(chosen)
    return chosen


def _score(guard: Guard, row: Mapping[str, Any]) -> float:
    verdict = guard.moderate(row["text"], prompt=str(row.get("context") or ""))
    return max(verdict.categories.values(), default=0.0)


def _logit(value: float) -> float:
    value = min(max(value, 1e-4), 1 - 1e-4)
    return float(np.log(value / (1 - value)))
