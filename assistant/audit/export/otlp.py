"""Turns as OpenTelemetry spans in OTLP JSON, one `TracesData` object a line, as file exporters and collectors read it.

Attribute names follow the GenAI semantic conventions, which are still in development; the version followed is stated in
every line. Texts are left out unless asked for, as the conventions demand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

from assistant.audit.export.rows import turns
from assistant.store.ledger import Filter, Ledger
from assistant.turn import Turn
from safety.verdict import Verdict

CONVENTIONS = "open-telemetry/semantic-conventions-genai@024a4f94 (development)"
_SPANS_PER_LINE = 100
_FINISH = {"stop": "stop", "length": "length", "blocked_prompt": "content_filter", "blocked_output": "content_filter"}
_INTERNAL, _ERROR = 1, 2


def lines(ledger: Ledger, which: Filter, *, contents: bool = False) -> Iterator[str]:
    """The lines of the export, each with its line end."""
    spans = (_span(turn, ended, contents) for turn, ended in turns(ledger, which))
    while some := list(islice(spans, _SPANS_PER_LINE)):
        resource = {"attributes": _attributes({"service.name": "pellucid", "pellucid.semantic_conventions": CONVENTIONS})}
        scope = {"scope": {"name": "pellucid.audit", "version": "1"}, "spans": some}
        yield json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}) + "\n"


def _span(turn: Turn, ended: int, contents: bool) -> dict[str, Any]:
    sampling, usage = turn.sampling, turn.usage
    values: dict[str, Any] = {
        "gen_ai.operation.name": "text_completion" if turn.raw else "chat",
        "gen_ai.provider.name": "pellucid",
        "gen_ai.conversation.id": turn.conversation,
        "gen_ai.request.model": turn.model.name,
        "gen_ai.response.model": turn.model.name,
        "gen_ai.response.id": turn.id,
        "gen_ai.response.finish_reasons": [_FINISH.get(turn.finish, turn.finish)],
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.stop_sequences": list(sampling.stop),
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.reply_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.response.time_to_first_chunk": usage.prefill_seconds,
        "pellucid.model.sha256": turn.model.sha256,
        "pellucid.seed": str(sampling.seed),
        "pellucid.parent": turn.parent,
        "pellucid.joules": usage.joules,
        "pellucid.erased": list(turn.erased),
    }
    if sampling.seed is not None and sampling.seed < 2**63:
        values["gen_ai.request.seed"] = sampling.seed
    if contents and not turn.erased:
        values["gen_ai.input.messages"] = _message("user", turn.prompt)
        values["gen_ai.output.messages"] = _message("assistant", turn.reply, _FINISH.get(turn.finish, turn.finish))
        if turn.system:
            values["gen_ai.system_instructions"] = json.dumps(_text(turn.system))
    events = [_evaluation("prompt_filter", turn.prompt_verdict, turn.created_us, contents)]
    if turn.output_verdict is not None:
        events.append(_evaluation("output_moderation", turn.output_verdict, ended, contents))
    return {
        "traceId": sha256(turn.conversation.encode()).hexdigest()[:32],
        "spanId": sha256(turn.id.encode()).hexdigest()[:16],
        "parentSpanId": sha256(turn.parent.encode()).hexdigest()[:16] if turn.parent else "",
        "name": f"chat {turn.model.name}",
        "kind": _INTERNAL,
        "startTimeUnixNano": str(turn.created_us * 1000),
        "endTimeUnixNano": str(max(ended, turn.created_us) * 1000),
        "attributes": _attributes(values),
        "events": events,
        "status": {"code": _ERROR} if turn.finish in ("error", "interrupted") else {},
    }


def _evaluation(name: str, verdict: Verdict, ts: int, contents: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "gen_ai.evaluation.name": name,
        "gen_ai.evaluation.score.value": verdict.score,
        "gen_ai.evaluation.score.label": verdict.action.value,
        "pellucid.policy": verdict.policy,
        "pellucid.category": verdict.category,
    }
    if contents and verdict.reason:
        values["gen_ai.evaluation.explanation"] = verdict.reason
    return {"name": "gen_ai.evaluation.result", "timeUnixNano": str(ts * 1000), "attributes": _attributes(values)}


def _message(role: str, text: str, finish: str | None = None) -> str:
    message: dict[str, Any] = {"role": role, "parts": _text(text)}
    return json.dumps([{**message, "finish_reason": finish} if finish else message], ensure_ascii=False)


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": text}]


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(item) for item in value]}}
    return {"stringValue": value}
