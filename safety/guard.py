"""The one door to this package: a Guard holds policy, rules and weights, judges prompts and replies, and says why.

    guard = Guard.load("balanced")
    guard.filter_prompt("…")        a message, before the model sees it
    guard.moderator()               a reply while it grows
    guard.moderate("…")             a reply in one piece, with the same verdict

It fails closed: without all of its parts it does not load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safety import texts
from safety.base_weights import BaseWeightsError
from safety.classifier import Classifier, ClassifierError
from safety.ensemble import FEATURES, KINDS, Ensemble
from safety.explanation import Weight, explain, logits
from safety.filter import filter_prompt
from safety.judge import deciding
from safety.moderate import Moderator
from safety.normalize import base_view
from safety.policy import Policy, PolicyError, load_policy
from safety.redact import Vault
from safety.resources import data_path
from safety.rule_watch import RuleWatch
from safety.rules import Role, RuleError, load_rules
from safety.scan import Scanner
from safety.verdict import Verdict

if TYPE_CHECKING:
    from safety.spans import SpanReader

_PREPARED = 2000  # longer texts are read piece by piece


class SafetyError(Exception):
    """The guard cannot be trusted to work: rules, policy or weights are missing or wrong. The message says what to
    do."""


class Guard:
    """Judges by one policy. Remembers nothing: whoever wants placeholders undone keeps a `Vault` for the
    conversation."""

    def __init__(self, policy: Policy, scanner: Scanner, stamp: str, language: str | None = None, watch: RuleWatch | None = None) -> None:
        self._policy, self._scanner, self._language, self._watch = policy, scanner, language, watch
        self._notices: list[tuple[str, str]] = []
        self._spans: SpanReader | None = None
        self.policy = stamp
        """Name and content hash of policy, rules and weights, as `balanced@1a2b3c4d`."""

    @classmethod
    def load(
        cls, policy: str = "balanced", language: str | None = None, user_rules: Path | None = None, encoder: Path | None = None
    ) -> Guard:
        """The guard for a policy. `user_rules` is a rule file, or a folder of them, on top of the shipped rules.
        `encoder` is the fetched trunk (see `base_weights`); None judges by rules and n-grams alone, which needs no
        torch. Raises SafetyError, also for an encoder that is damaged."""
        try:
            profile = load_policy(policy)
            weights = data_path("safety", "classifier.npz")
            parts = [*profile.files, weights]
            classifier = Ensemble(Classifier.load(weights))
            if encoder is not None:
                parts.append(data_path("safety", "encoder.npz"))
                classifier = _with_encoder(classifier.ngrams, encoder, parts[-1])
            watch = RuleWatch(data_path("safety"), user_rules, parts)
            scanner = Scanner(load_rules(watch.files()), classifier)
        except (PolicyError, RuleError, ClassifierError, BaseWeightsError, FileNotFoundError) as error:
            raise SafetyError(str(error)) from error
        return cls(profile, scanner, f"{profile.name}@{watch.fingerprint()}", language, watch)

    def notices(self, language: str) -> tuple[str, ...]:
        """What the person should know about the guard itself since this was last asked: rules that changed or broke."""
        told = tuple(texts.notice(name, language).replace("{problem}", problem) for name, problem in self._notices)
        self._notices.clear()
        return told

    def reload(self) -> None:
        """Take over rule files that changed on disk. One that is broken changes nothing but is reported by `notices`."""
        if self._watch is None or not self._watch.changed():
            return
        try:
            self._scanner = Scanner(load_rules(self._watch.files()), self._scanner.classifier)
            self.policy = f"{self._policy.name}@{self._watch.fingerprint()}"
            self._notices.append(("rules_changed", ""))
        except (RuleError, OSError) as error:
            self._notices.append(("rules_broken", str(error)))

    @property
    def complete(self) -> bool:
        """Whether the encoder takes part; without it the guard knows surfaces only."""
        return self._scanner.classifier.reader is not None

    def prepare(self, texts: Iterable[str], role: Role) -> None:
        """Let the encoder read many texts at once before they are judged one by one; verdicts do not change."""
        views = (base_view(text[:_PREPARED]).text for text in texts if len(text) <= _PREPARED)
        self._scanner.classifier.prepare(list(views), role)

    def serve_many(self) -> None:
        """Be quicker where many threads ask at once; loads a little longer, changes no verdict."""
        if self._scanner.classifier.reader is not None:
            self._scanner.classifier.reader.trace()

    def forget(self) -> None:
        """Forget what was prepared or read lately: texts read beside others may differ from them in the last digits."""
        self._scanner.classifier.forget()

    def filter_prompt(self, text: str, *, context: Sequence[tuple[str, str]] = (), vault: Vault | None = None) -> Verdict:
        """Judge a message; `context` is (role, text) of the earlier ones, oldest first. The placeholders that are given
        out are noted in `vault`, which can put the values back. Rule files that changed are taken over first."""
        self.reload()
        return filter_prompt(
            text,
            context=context,
            scanner=self._scanner,
            policy=self._policy,
            stamp=self.policy,
            language=self._language,
            vault=Vault() if vault is None else vault,
        )

    def moderate(self, text: str, *, prompt: str = "", system: str = "") -> Verdict:
        """Judge a whole reply, exactly as it would be judged while streaming."""
        moderator = self.moderator(prompt, system=system)
        moderator.feed(text)
        return moderator.finish().verdict

    def moderator(self, prompt: str = "", *, system: str = "") -> Moderator:
        """Judge a reply while it grows. What the person wrote in `prompt` may be said back; passages of `system` may
        not."""
        return Moderator(self._scanner, self._policy, self.policy, prompt, self._language, system)

    def refusal(self, verdict: Verdict, language: str) -> str:
        """What is shown instead of a blocked text: it says why, in `zh` or `en`; for self-harm it offers help lines."""
        roles: tuple[Role, Role] = ("prompt", "response")
        decided = (deciding(self._policy, role, verdict.categories)[1] for role in roles)
        return texts.refusal(verdict, next(filter(None, decided), verdict.category), language)

    def explain(self, text: str, role: Role = "prompt") -> list[Weight]:
        """Which words moved the classifier's highest category, and by how much. The weights, with the bias that comes
        first under an empty text, sum to that category's logit."""
        return explain(self._scanner.classifier, text, role)

    def marks(self, text: str) -> tuple[list[Weight], float]:
        """Every word and its logit of being one that people would mark as toxic, and the logit from which it counts as marked (see
        `spans`). Taught on English posts; no part of any verdict. Raises SafetyError without the encoder."""
        from safety.spans import SpanError, SpanReader

        reader = self._scanner.classifier.reader
        if reader is None or reader.files is None:
            raise SafetyError("marking words needs the encoder, which is not installed")
        try:
            self._spans = self._spans or SpanReader.load(data_path("safety", "spans.npz"), *reader.files)
        except (SpanError, BaseWeightsError) as error:
            raise SafetyError(str(error)) from error
        return self._spans.words(text), self._spans.threshold

    def logits(self, text: str, edited: Sequence[str], role: Role = "prompt") -> list[float]:
        """The logit that `explain` takes apart, for `edited` forms of the text: of the same category, read in the same language."""
        self.prepare(edited, role)
        try:
            return logits(self._scanner.classifier, text, edited, role)
        finally:
            self.forget()


def _with_encoder(ngrams: Classifier, base: Path, weights: Path) -> Ensemble:
    """The ensemble. Imports torch."""
    from safety.reader import Reader, read_weights

    blend = read_weights(weights)[1].get("blend", {})
    needed = {f"{k}.{lang}" for k in KINDS[:2] for lang in ("zh", "en")}
    if not isinstance(blend, dict) or needed - set(blend) or any(len(values) != FEATURES + 1 for values in blend.values()):
        raise BaseWeightsError(f"{weights}: the calibration is missing; install Pellucid again or run `pellucid safety train`")
    return Ensemble(ngrams, Reader.load(base, weights), blend)
