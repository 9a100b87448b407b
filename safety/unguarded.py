"""No guard: for the person who asked for that with `--unsafe-no-moderation`. Nothing is judged, and everything says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from safety import texts
from safety.explanation import Weight
from safety.guard import Guard
from safety.moderate import Moderator, Release
from safety.redact import Vault
from safety.rules import Role
from safety.verdict import Action, Verdict

POLICY = "off@unsafe-no-moderation"
_PASSED = Verdict(Action.ALLOW, policy=POLICY)


class Unguarded(Guard):
    """Lets everything pass; its verdicts carry the policy `off@unsafe-no-moderation`, in the log as well."""

    def __init__(self) -> None:
        self.policy = POLICY

    @property
    def complete(self) -> bool:
        return False

    def prepare(self, texts: Iterable[str], role: Role) -> None:
        """Nothing to prepare."""

    def forget(self) -> None:
        """Nothing to forget."""

    def serve_many(self) -> None:
        """Nothing to be quicker at."""

    def filter_prompt(self, text: str, *, context: Sequence[tuple[str, str]] = (), vault: Vault | None = None) -> Verdict:
        return _PASSED

    def moderator(self, prompt: str = "", *, system: str = "") -> Moderator:
        return _Passing()

    def notices(self, language: str) -> tuple[str, ...]:
        return (texts.notice("unmoderated", language),)

    def explain(self, text: str, role: Role = "prompt") -> list[Weight]:
        return []


class _Passing(Moderator):
    def __init__(self) -> None:
        """Nothing is kept."""

    def feed(self, text: str) -> Release:
        return Release(text, _PASSED)

    def finish(self) -> Release:
        return Release("", _PASSED)
