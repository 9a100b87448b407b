"""What `pipeline.respond` tells its caller, in this order. The terminal application and the command line consume the same events."""

from __future__ import annotations

from dataclasses import dataclass

from assistant.turn import ReplyToken, Turn
from safety.verdict import Verdict


@dataclass(frozen=True, slots=True)
class PromptChecked:
    """First of all: the prompt was filtered. With action `block` the next event is `Finished`."""

    turn: str
    conversation: str
    prompt: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the person should know (turns dropped from the context, a model that knows no Chinese …)."""

    text: str


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The model has read the prompt; the first token follows."""

    prompt_tokens: int
    cached_tokens: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Token:
    """A token was generated. Its text is *not yet moderated*: count it, never show it."""

    token: ReplyToken


@dataclass(frozen=True, slots=True)
class Text:
    """Text that passed moderation and may be shown. The concatenation of all `Text` events is the reply."""

    text: str


@dataclass(frozen=True, slots=True)
class Moderated:
    """The verdict on the reply as far as it has been written."""

    verdict: Verdict
    final: bool


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Everything shown of this reply must be replaced by `refusal`."""

    refusal: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Finished:
    """Last of all: the turn, already in the ledger."""

    turn: Turn


Event = PromptChecked | Notice | Prefilled | Token | Text | Moderated | Withdrawn | Finished
