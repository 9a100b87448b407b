"""Other guards in our table: a peer is anything that gives a text a score from 0 to 1, wrapped so that `evaluate` can ask it.

Nothing here is a dependency: install a peer into an environment of its own, beside Pellucid, and name it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from types import MappingProxyType

from safety.verdict import Action, Finding, Verdict

Scorer = Callable[[str], float]


class PeerError(Exception):
    """A peer that is not known or not installed; the message says what to do."""


class Peer:
    """Asks one scorer; cautions from a score of one half."""

    def __init__(self, name: str, score: Scorer) -> None:
        self.name, self._score = name, score

    def filter_prompt(self, text: str, /) -> Verdict:
        began = time.perf_counter()
        score = min(max(float(self._score(text)), 0.0), 1.0)
        took = (time.perf_counter() - began) * 1e3
        flagged = (Finding("attack", self.name, 0, len(text), score),) if score >= 0.5 else ()
        action = Action.CAUTION if flagged else Action.ALLOW
        return Verdict(action, score, MappingProxyType({"attack": score}), flagged, policy=self.name, milliseconds=took)

    def moderate(self, text: str, /, *, prompt: str = "") -> Verdict:
        """The same: these know texts only."""
        return self.filter_prompt(text)


def load_peer(name: str) -> Peer:
    """A known peer by name, or any function of a text as `module:function`. Raises PeerError."""
    known = _KNOWN.get(name)
    try:
        if known is not None:
            return Peer(name, known[1]())
        module, _, function = name.partition(":")
        if not function:
            raise PeerError(f"there is no peer {name!r}: choose one of {', '.join(sorted(_KNOWN))}, or give module:function")
        return Peer(name, getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        package = known[0] if known else name.partition(":")[0]
        raise PeerError(f"the peer {name} cannot be loaded ({error}): install {package} beside Pellucid") from error


def _alt_profanity_check() -> Scorer:
    check = importlib.import_module("profanity_check")
    return lambda text: float(check.predict_prob([text])[0])


def _better_profanity() -> Scorer:
    profanity = importlib.import_module("better_profanity").profanity
    profanity.load_censor_words()
    return lambda text: float(profanity.contains_profanity(text))


def _detect_secrets() -> Scorer:
    scan = importlib.import_module("detect_secrets.core.scan")
    settings = importlib.import_module("detect_secrets.settings")

    def score(text: str) -> float:
        with settings.default_settings():
            return float(any(True for line in text.splitlines() for _ in scan.scan_line(line)))

    return score


def _presidio() -> Scorer:
    """Patterns and checksums only: its named-entity model is another download."""
    recognizers = importlib.import_module("presidio_analyzer.predefined_recognizers")
    names = (
        "CreditCardRecognizer",
        "CryptoRecognizer",
        "EmailRecognizer",
        "IbanRecognizer",
        "IpRecognizer",
        "PhoneRecognizer",
        "UsSsnRecognizer",
    )
    made = [getattr(recognizers, name)() for name in names]

    def score(text: str) -> float:
        return max((r.score for one in made for r in one.analyze(text, one.supported_entities, None) or []), default=0.0)

    return score


_KNOWN: dict[str, tuple[str, Callable[[], Scorer]]] = {
    "alt-profanity-check": ("alt-profanity-check", _alt_profanity_check),
    "better-profanity": ("better-profanity", _better_profanity),
    "detect-secrets": ("detect-secrets", _detect_secrets),
    "presidio": ("presidio-analyzer", _presidio),
}
