"""What a client of the server may ask, read from untrusted JSON. Everything that is not understood is said, not guessed at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from assistant.errors import UsageError
from assistant.language import clean_intake
from assistant.settings import Settings
from assistant.turn import Message, Role, Sampling

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MESSAGES = 2000
_TEXTS = 256
_NOT_HERE = ("tools", "functions", "audio", "logit_bias", "prediction", "web_search_options")


class BadRequest(Exception):
    """The client asked something that cannot be answered. `parameter` names what is wrong."""

    def __init__(self, message: str, parameter: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.parameter, self.status = parameter, status


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion that was asked for."""

    model: str
    system: str
    earlier: tuple[Message, ...]
    prompt: str
    sampling: Sampling
    stream: bool
    with_usage: bool
    logprobs: bool


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises BadRequest."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise BadRequest("the body is nested too deeply: send plain messages") from None
    except ValueError as error:  # also bytes that are no UTF-8
        raise BadRequest(f"the body is not JSON ({error}): send a JSON object") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def chat(body: Mapping[str, Any], settings: Settings) -> ChatRequest:
    """A chat request; what it leaves out comes from the settings. Raises BadRequest."""
    for name in _NOT_HERE:
        if body.get(name):
            raise BadRequest(f"{name} is not supported: leave it out", name)
    if body.get("n") not in (None, 1):
        raise BadRequest("only one choice is given: leave n out", "n")
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise BadRequest("only text is given: leave response_format out", "response_format")
    messages = _messages(body.get("messages"))
    system = "\n\n".join(m.text for m in messages if m.role == "system")
    spoken = [m for m in messages if m.role != "system"]
    if not spoken or spoken[-1].role != "user":
        raise BadRequest("the last message must be the user's", "messages")
    if not spoken[-1].text.strip():
        raise BadRequest("the last message is empty: write something to ask", "messages")
    options = body.get("stream_options")
    return ChatRequest(
        model=_typed(body, "model", str, ""),
        system=system or settings.system,
        earlier=tuple(spoken[:-1]),
        prompt=spoken[-1].text,
        sampling=_sampling(body, settings),
        stream=_typed(body, "stream", bool, False),
        with_usage=isinstance(options, dict) and options.get("include_usage") is True,
        logprobs=_typed(body, "logprobs", bool, False),
    )


def texts(body: Mapping[str, Any]) -> list[str]:
    """The texts of a moderation request. Raises BadRequest."""
    given = body.get("input")
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not found:
        raise BadRequest("input must be a text or a list of texts", "input")
    if len(found) > _TEXTS:
        raise BadRequest(f"more than {_TEXTS} texts at once: send them in several requests", "input")
    return [clean_intake(_text(part, "input")) for part in found]


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise BadRequest("messages must be a list of messages", "messages")
    if len(given) > _MESSAGES:
        raise BadRequest(f"more than {_MESSAGES} messages: begin a new conversation", "messages")
    out = []
    for entry in given:
        role = entry.get("role") if isinstance(entry, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise BadRequest("every message needs a role: system, user or assistant", "messages")
        out.append(Message(_ROLES[role], clean_intake(_text(entry.get("content"), "messages"))))
    return out


def _text(content: Any, parameter: str) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not content:
        raise BadRequest("the content of a message must be text", parameter)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRequest("only text is understood: leave pictures, sound and files out", parameter)
    return "\n".join(part["text"] for part in content)


def _sampling(body: Mapping[str, Any], settings: Settings) -> Sampling:
    stop = body.get("stop")
    stop = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stop, list) or not all(isinstance(s, str) for s in stop) or len(stop) > 16:
        raise BadRequest("stop must be a text or a list of at most 16 texts", "stop")
    changes: dict[str, Any] = {"stop": tuple(stop)}
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        if body.get(name) is not None:
            changes[name] = float(_typed(body, name, (int, float), 0.0))
    for name, field in (("top_k", "top_k"), ("seed", "seed"), ("max_tokens", "max_tokens"), ("max_completion_tokens", "max_tokens")):
        if body.get(name) is not None:
            changes[field] = _typed(body, name, int, 0)
    if isinstance(changes.get("seed"), int):
        changes["seed"] %= 2**64  # clients send negative ones
    try:
        return replace(settings.sampling(), **changes)
    except UsageError as error:
        raise BadRequest(str(error)) from None


def _typed(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise BadRequest(f"{name} must be {expected}", name)
    return value
