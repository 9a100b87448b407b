"""Explaining and replaying what a server wrote, by letting it score texts: through the protocol of Captum's RemoteLLMAttribution.

Only servers that return the log-probabilities of a prompt can do that (`echo` with `logprobs` at /completions: vLLM, llama.cpp). They are
given the conversation as text, laid out by us; whether that is what the server itself makes of it is seen from the numbers, not assumed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assistant.errors import ExplanationError, ModelError, UsageError
from assistant.lm.chat_format import FORMATS, ChatFormat
from assistant.pipeline import as_messages
from assistant.served.engine import COMPLETION, ServedEngine
from assistant.served.exchange import Server
from assistant.turn import Message, ModelInfo, Turn
from explain.attribution import Attribution
from explain.remote import RemoteTarget

if TYPE_CHECKING:
    from assistant.audit.replay import Rescored
    from assistant.contrasting import Question
    from assistant.settings import Settings

Progress = Callable[[str, float | None], None]
DEFAULT_FORMAT = "chatml"
METHODS = ("balanced-ablation", "ablation", "contextcite", "shapley")
"""Those that only leave pieces out."""
GAP_MEAN, GAP_WORST = 0.1, 1.0
"""How far the server's log-probabilities may lie from the logged ones, on average and at most, in nats."""


class EchoProvider:
    """`get_logprobs` of Captum's RemoteLLMProvider, on a server that echoes prompts with log-probabilities."""

    def __init__(self, server: Server, model: str) -> None:
        self._server, self._model = server, model

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """The log-probability of each token of `target_str` after `input_prompt`. Raises ExplanationError where the server tells none."""
        return [value for _, value in self.scored(input_prompt, target_str)]

    def scored(self, prompt: str, reply: str) -> list[tuple[str, float]]:
        """(text, log-probability) of each token of `reply` after `prompt`."""
        body = {"model": self._model, "prompt": prompt + reply, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        url = self._server.url
        try:
            answer = self._server.request(COMPLETION, body)
        except ModelError as error:
            if getattr(error.__cause__, "status_code", 0) in (400, 404, 405, 422, 501):
                raise ExplanationError(f"the server {url} scores no given text: it cannot be asked from outside ({error})") from error
            raise
        choices = answer.get("choices")
        told = choices[0].get("logprobs") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        tokens, values = (told.get("tokens"), told.get("token_logprobs")) if isinstance(told, dict) else (None, None)
        if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
            raise ExplanationError(f"the server {url} returns no log-probabilities of a prompt: it cannot be asked from outside")
        for written in (1, 0):  # one token is generated behind the echo, unless the model ended there
            found = _end(tokens[: len(tokens) - written], values, reply)
            if found is not None:
                return found
        raise ExplanationError(f"the server {url} cuts this reply into pieces that do not fit its text: it cannot be scored again")


def _end(tokens: Sequence[Any], values: Sequence[Any], reply: str) -> list[tuple[str, float]] | None:
    """The last tokens, as many as make up `reply`; None where none do. Offsets are not asked for: servers count control tokens or not."""
    rest, at = reply, len(tokens)
    while rest and at:
        at -= 1
        if not isinstance(tokens[at], str) or not rest.endswith(tokens[at]) or not isinstance(values[at], int | float):
            return None
        rest = rest.removesuffix(tokens[at]) if tokens[at] else rest
    return None if rest else [(tokens[i], float(values[i])) for i in range(at, len(tokens))]


def connected(settings: Settings, info: ModelInfo) -> ServedEngine:
    """The server that wrote a turn, which must be the one of the settings. Raises ExplanationError."""
    if settings.engine != "openai" or settings.base_url.rstrip("/") != info.device:
        raise ExplanationError(
            f"the reply was written by {info.name} on the server {info.device}: "
            f"explain it with --engine openai --base-url {info.device}, which sends the conversation there"
        )
    return ServedEngine.connect(
        settings.base_url, info.name, timeout=settings.server_timeout, retries=settings.server_retries, context_length=settings.context
    )


def explain_served(
    settings: Settings,
    turn: Turn,
    history: Sequence[Turn],
    question: Question,
    *,
    progress: Progress = lambda what, fraction: None,
    cancel: threading.Event | None = None,
) -> Attribution:
    """The attribution of a reply that a server wrote, by leaving out pieces of the prompt, one request each; the cost is said first.

    Raises ExplanationError when the server cannot score texts, when its numbers are not the logged ones (another chat format), or when
    the question needs a look inside.
    """
    from explain.attributing import FORMAT, Cancelled, at_level, attribute
    from explain.attributing import METHODS as ALL
    from explain.problem import Problem
    from explain.units import group

    if not turn.tokens or not turn.reply:
        raise ExplanationError(f"turn {turn.id} has no generated reply to explain (it was blocked, or its text was erased)")
    if question.method not in METHODS or question.contrast is not None or question.against is not None or question.than:
        raise ExplanationError(f"a served model can only be asked from outside: use --method {', '.join(METHODS)}, and no contrast")
    engine = connected(settings, turn.model)
    try:
        texts = laid_out(turn, history, settings.chat_format)
        pieces, roles = _pieces(texts)
        provider = EchoProvider(engine.server, engine.info.name)
        reply = "".join(token.text for token in turn.tokens)
        began = time.perf_counter()
        scored = provider.scored("".join(pieces), reply)
        seconds = time.perf_counter() - began
        gaps = _agree(scored, turn, settings.chat_format)
        target = RemoteTarget(provider, pieces, reply)
        units = [unit for unit in at_level(group([p.encode() for p in pieces], roles), question.level)[0] if unit.role != FORMAT]
        requests = ALL[question.method].cost(Problem(target, units, [], samples=question.samples))
        progress(
            f"explaining: about {requests} requests to {engine.server.url} of {turn.usage.prompt_tokens + len(scored)} tokens each, "
            f"{requests * seconds:.0f} s in all", 0.0,
        )  # fmt: skip
        found = attribute(
            target, [piece.encode() for piece in pieces], roles, [text.encode() for text, _ in scored], method=question.method,
            token=question.token, span=question.span, sentence=question.sentence, level=question.level, samples=question.samples,
            seed=question.seed, progress=lambda fraction: progress(question.method, fraction),
            cancelled=lambda: cancel is not None and cancel.is_set(),
        )  # fmt: skip
    except ValueError as error:
        raise ExplanationError(str(error)) from error
    except Cancelled:
        raise ExplanationError("the explanation was stopped") from None
    finally:
        engine.server.close()
    quality = {**found.quality, **gaps, "model": engine.info.name, "server": engine.server.url, "requests": target.forwards + 1}
    return replace(found, quality=quality)


class ServerReplay:
    """A server as `replay.Replayable`: it scores the logged reply again; how it drew the tokens cannot be repeated."""

    def __init__(self, engine: ServedEngine, chat_format: str) -> None:
        self._engine, self._format, self._context = engine, chat_format, ()  # type: ServedEngine, str, Sequence[Turn]

    @property
    def info(self) -> ModelInfo:
        """The model and its server."""
        return self._engine.info

    def render(self, turn: Turn, history: Sequence[Turn]) -> tuple[int, ...]:
        """Nothing: the server cuts texts into tokens. The history is kept for `rescore`."""
        self._context = tuple(history)
        return ()

    def rescore(self, turn: Turn, before: Sequence[Turn], *, exact: bool) -> Rescored:
        """The log-probabilities that the server gives the logged reply now. Raises ExplanationError where it gives none."""
        from assistant.audit.replay import Rescored, Step

        texts = laid_out(turn, self._context, self._format)
        provider = EchoProvider(self._engine.server, self.info.name)
        scored = provider.scored("".join(text for text, _ in texts), "".join(token.text for token in turn.tokens))
        if len(scored) != len(turn.tokens):
            raise ExplanationError("the server cuts the reply into other tokens now than then: they cannot be compared")
        return Rescored([Step(value, 0.0) for _, value in scored], None, False, False, {"server": self._engine.server.url})


def laid_out(turn: Turn, history: Sequence[Turn], chat_format: str) -> list[tuple[str, str]]:
    """(text, role) of everything before the reply; role `format` for the template's own. Raises ExplanationError or UsageError."""
    if turn.raw:
        return [(turn.prompt, "user")]
    style: ChatFormat | None = FORMATS.get(chat_format or DEFAULT_FORMAT)
    if style is None:
        raise UsageError(f"there is no chat format {chat_format!r}: choose {', '.join(FORMATS)}")
    shown = [earlier for earlier in history if earlier.in_context]
    messages: list[Message] = as_messages(turn.system, shown, turn.prompt, turn.earlier)
    if any(token in message.text for message in messages for token in style.control):
        raise ExplanationError("the conversation has control tokens in its text: as plain text the server would read them as such")
    return [(text, role or "format") for text, role, _ in style.layout(messages) if text]


def _pieces(texts: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The same cut into words (Chinese: characters), with their roles."""
    from explain.units import Unit, characters

    pieces: list[str] = []
    roles: list[str] = []
    for text, role in texts:
        cut = [text] if role == "format" else [unit.text for unit in characters([Unit(c, i, i + 1) for i, c in enumerate(text)])]
        pieces += cut
        roles += [role] * len(cut)
    return pieces, roles


def _agree(scored: Sequence[tuple[str, float]], turn: Turn, chat_format: str) -> dict[str, float]:
    """How far what the server says now lies from what it said when it wrote. Raises ExplanationError where that is too far."""
    if len(scored) != len(turn.tokens):
        raise ExplanationError("the server cuts the reply into other tokens now than then: they cannot be compared")
    gaps = [abs(value - token.logprob) for (_, value), token in zip(scored, turn.tokens, strict=True)]
    mean, worst = sum(gaps) / len(gaps), max(gaps)
    if not (mean <= GAP_MEAN and worst <= GAP_WORST):  # also where none were logged (NaN)
        raise ExplanationError(
            f"laid out as {chat_format or DEFAULT_FORMAT}, the server gives the reply other log-probabilities than it logged ({mean:.3f} "
            f"nats on average): name its chat format with --chat-format"
        )
    return {"generator_gap_mean": mean, "generator_gap_max": worst}
