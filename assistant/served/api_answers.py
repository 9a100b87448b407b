"""What the server says to its clients: the OpenAI layout, with what Pellucid decided in the extension field `pellucid`.

turn, conversation    the ids in the log (`pellucid audit show TURN`)
prompt_verdict        the filter's decision; output_verdict: the moderation's, as far as the reply has come
began                 true once the model has written its first token, which is not judged yet
notices               what the person should know (turns left out of the context, …)
withdrawn, refusal    true and the words in its place, when a reply was withdrawn after parts of it had been sent
"""

from __future__ import annotations

import math
from typing import Any

from assistant.events import PromptChecked
from assistant.turn import Finish, ReplyToken, Turn
from safety.verdict import Action, Verdict

_REASONS: dict[Finish, str] = {"length": "length", "blocked_prompt": "content_filter", "blocked_output": "content_filter"}


def reason(turn: Turn) -> str:
    """`finish_reason` of a turn."""
    return _REASONS.get(turn.finish, "stop")


def first(event: PromptChecked) -> dict[str, Any]:
    """The extension of the first piece of a stream."""
    return {"turn": event.turn, "conversation": event.conversation, "prompt_verdict": event.verdict.to_dict()}


def whole(turn: Turn) -> dict[str, Any]:
    """The extension of a finished turn."""
    return {
        "turn": turn.id, "conversation": turn.conversation, "prompt_verdict": turn.prompt_verdict.to_dict(),
        "output_verdict": turn.output_verdict.to_dict() if turn.output_verdict else None, "notices": list(turn.notices),
        "withdrawn": turn.finish == "blocked_output",
    }  # fmt: skip


def completion(turn: Turn, *, logprobs: bool) -> dict[str, Any]:
    """A whole `chat.completion`."""
    choice = {
        "index": 0, "message": {"role": "assistant", "content": turn.reply, "refusal": None}, "finish_reason": reason(turn),
        "logprobs": told(turn) if logprobs else None,
    }  # fmt: skip
    return {**frame(turn.id, turn.model.name, turn.created_us), "object": "chat.completion", "choices": [choice], "usage": usage(turn),
            "pellucid": whole(turn)}  # fmt: skip


def frame(turn: str, model: str, created_us: int) -> dict[str, Any]:
    """What every piece of an answer begins with."""
    return {"id": f"chatcmpl-{turn}", "object": "chat.completion.chunk", "created": created_us // 1_000_000, "model": model}


def usage(turn: Turn) -> dict[str, Any]:
    """Tokens, as OpenAI counts them."""
    read, written = turn.usage.prompt_tokens, turn.usage.reply_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": turn.usage.cached_tokens}}  # fmt: skip


def told(turn: Turn) -> dict[str, Any] | None:
    """The log-probabilities of a reply that is shown as it was written; None for one in which something was hidden."""
    hidden = turn.output_verdict is None or turn.output_verdict.action in (Action.BLOCK, Action.REDACT)
    if hidden or any(math.isnan(token.logprob) for token in turn.tokens):
        return None
    return {"content": [_entry(token) for token in turn.tokens], "refusal": None}


def _entry(token: ReplyToken) -> dict[str, Any]:
    best = [{"token": c.text, "logprob": c.logprob, "bytes": None} for c in token.candidates]
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode()), "top_logprobs": best}


def model(name: str) -> dict[str, Any]:
    """A row of `/v1/models`."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "pellucid"}


def moderation(verdict: Verdict) -> dict[str, Any]:
    """One result of `/v1/moderations`; `flagged` is everything that would not pass as it is."""
    return {
        "flagged": verdict.action is not Action.ALLOW,
        "categories": {name: verdict.action is not Action.ALLOW and name == verdict.category for name in verdict.categories},
        "category_scores": dict(verdict.categories),
        "pellucid": verdict.to_dict(),
    }


def error(message: str, kind: str, *, parameter: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error, as OpenAI words it."""
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
