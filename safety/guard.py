"""The one door to this package: a Guard holds policy, rules and weights, judges prompts and replies, and says why.

    guard = Guard.load("balanced")
    guard.filter_prompt("…")        a message, before the model sees it
    guard.moderator()               a reply while it grows
    guard.moderate("…")             a reply in one piece, with the same verdict

It fails closed: without all of its parts it does not load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from safety import texts
from safety.classifier import Classifier, ClassifierError
from safety.explanation import Weight, explain
from safety.filter import filter_prompt
from safety.judge import deciding
from safety.moderate import Moderator
from safety.policy import Policy, PolicyError, load_policy
from safety.redact import Vault
from safety.resources import data_path
from safety.rules import Role, RuleError, load_rules
from safety.scan import Scanner
from safety.verdict import Verdict


class SafetyError(Exception):
    """The guard cannot be trusted to work: rules, policy or weights are missing or wrong. The message says what to
    do."""


class Guard:
    """Judges by one policy. Remembers nothing: whoever wants placeholders undone keeps a `Vault` for the
    conversation."""

    def __init__(self, policy: Policy, scanner: Scanner, stamp: str, language: str | None = None) -> None:
        self._policy, self._scanner, self._language = policy, scanner, language
        self.policy = stamp
        """Name and content hash of policy, rules and weights, as `balanced@1a2b3c4d`."""

    @classmethod
    def load(cls, policy: str = "balanced", language: str | None = None, user_rules: Path | None = None) -> Guard:
        """The guard for a policy. `user_rules` is a rule file, or a folder of them, on top of the shipped rules.
        Raises SafetyError."""
        try:
            profile = load_policy(policy)
            weights = data_path("safety", "classifier.npz")
            files = sorted(data_path("safety").glob("rules.*.toml")) + _user_files(user_rules)
            scanner = Scanner(load_rules(files), Classifier.load(weights))
        except (PolicyError, RuleError, ClassifierError, FileNotFoundError) as error:
            raise SafetyError(str(error)) from error
        return cls(profile, scanner, f"{profile.name}@{_fingerprint([*profile.files, *files, weights])}", language)

    def filter_prompt(self, text: str, *, context: Sequence[tuple[str, str]] = (), vault: Vault | None = None) -> Verdict:
        """Judge a message; `context` is (role, text) of the earlier ones, oldest first. The placeholders that are given
        out are noted in `vault`, which can put the values back."""
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


def _user_files(path: Path | None) -> list[Path]:
    if path is None:
        return []
    if not path.exists():
        raise RuleError(f"{path}: there are no such rules; correct the path")
    return sorted(path.glob("*.toml")) if path.is_dir() else [path]


def _fingerprint(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:8]
