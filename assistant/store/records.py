"""A turn as two ledger records (the intent before generation, the outcome after) and back.

The record keeps what an auditor must be able to query after the texts are gone: who decided what, by which policy, with
which model and sampling, at what cost. Texts, ids, tokens and findings are parts (see `content`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, cast

from assistant.language import clean_intake
from assistant.store.canonical import Record, micro, unmicro
from assistant.store.content import (
    PROMPT,
    PROMPT_DETAIL,
    PROMPT_IDS,
    REPLY,
    REPLY_DETAIL,
    TOKENS,
    Part,
    json_part,
    pack_tokens,
    text_part,
    unpack_tokens,
)
from assistant.turn import Finish, Message, ModelInfo, Sampling, Turn, Usage
from safety.verdict import Action, Finding, Verdict

CLOSING = ("output", "interrupted")
"""The kinds of record that end a turn."""


def intent(turn: Turn) -> tuple[Record, list[Part]]:
    """What is known before generation."""
    record: Record = {
        **_common(turn),
        "created": turn.created_us,
        "dtype": turn.model.dtype,
        "device": turn.model.device,
        "raw": turn.raw,
        "filter": _verdict_record(turn.prompt_verdict),
        "sampling": _sampling_record(turn.sampling),
    }
    if turn.client:
        record["client"] = turn.client
    detail: dict[str, Any] = {}
    if turn.earlier:
        detail["earlier"] = [[message.role, clean_intake(message.text)] for message in turn.earlier]
    if turn.system:
        detail["system"] = clean_intake(turn.system)
    if turn.sampling.stop:
        detail["stop"] = list(turn.sampling.stop)
    if turn.notices:
        detail["notices"] = list(turn.notices)
    detail |= _verdict_detail(turn.prompt_verdict)
    parts = [text_part(PROMPT, turn.prompt)]
    if detail:
        parts.append(json_part(PROMPT_DETAIL, detail))
    if turn.prompt_ids:
        parts.append(json_part(PROMPT_IDS, list(turn.prompt_ids)))
    return record, parts


def outcome(turn: Turn) -> tuple[Record, list[Part]]:
    """What became of it. `verdict`, `category` and `score` are those of the more severe of the two decisions."""
    worst = turn.prompt_verdict
    if turn.output_verdict is not None and turn.output_verdict.action.severity > worst.action.severity:
        worst = turn.output_verdict
    record: Record = {
        **_common(turn),
        "finish": turn.finish,
        "verdict": worst.action.value,
        "score": micro(worst.score),
        "usage": _usage_record(turn.usage),
    }
    if worst.action is not Action.ALLOW and worst.category:
        record["category"] = worst.category
    detail: dict[str, Any] = {}
    if turn.output_verdict is not None:
        record["moderation"] = _verdict_record(turn.output_verdict)
        detail |= _verdict_detail(turn.output_verdict)
    parts = [text_part(REPLY, turn.reply)]
    if detail:
        parts.append(json_part(REPLY_DETAIL, detail))
    if turn.tokens:
        parts.append(json_part(TOKENS, pack_tokens(turn.tokens)))
    return record, parts


def intervention(turn: Turn) -> Record | None:
    """What moderation did to a reply, where it did anything: an event of its own, before the outcome. None where it let it pass."""
    verdict = turn.output_verdict
    if verdict is None or verdict.action is Action.ALLOW:
        return None
    return {"turn": turn.id, "conv": turn.conversation, "finish": turn.finish, "moderation": _verdict_record(verdict)}


def turn_of(opened: Record, closed: Record | None, parts: Mapping[str, Any], erased: tuple[str, ...]) -> Turn:
    """The turn that two records and their decoded parts describe. A turn that was never closed counts as
    interrupted.
    """
    asked: Mapping[str, Any] = parts.get(PROMPT_DETAIL, {})
    answered: Mapping[str, Any] = parts.get(REPLY_DETAIL, {})
    moderation = (closed or {}).get("moderation")
    return Turn(
        id=opened["turn"],
        conversation=opened["conv"],
        parent=opened.get("parent"),
        prompt=parts.get(PROMPT, ""),
        reply=parts.get(REPLY, ""),
        finish=cast(Finish, closed["finish"] if closed else "interrupted"),
        prompt_verdict=_verdict(opened["filter"], asked),
        output_verdict=_verdict(moderation, answered) if moderation else None,
        usage=_usage(closed["usage"]) if closed else Usage(),
        model=ModelInfo(opened["model"], opened["weights"], opened["dtype"], opened["device"]),
        sampling=_sampling(opened["sampling"], asked.get("stop", ())),
        system=asked.get("system", ""),
        tokens=unpack_tokens(parts.get(TOKENS, ())),
        prompt_ids=tuple(parts.get(PROMPT_IDS, ())),
        created_us=opened["created"],
        raw=opened["raw"],
        language=opened["lang"],
        notices=tuple(asked.get("notices", ())),
        erased=erased,
        client=opened.get("client", ""),
        earlier=tuple(Message(role, text) for role, text in asked.get("earlier", ())),
    )


def _common(turn: Turn) -> Record:
    record: Record = {
        "turn": turn.id,
        "conv": turn.conversation,
        "model": turn.model.name,
        "weights": turn.model.sha256,
        "lang": turn.language,
    }
    return {**record, "parent": turn.parent} if turn.parent is not None else record


def _verdict_record(verdict: Verdict) -> Record:
    return {
        "action": verdict.action.value,
        "score": micro(verdict.score),
        "categories": {name: micro(score) for name, score in verdict.categories.items()},
        "policy": verdict.policy,
        "us": micro(verdict.milliseconds / 1000),
    }


def _verdict_detail(verdict: Verdict) -> dict[str, Any]:
    """What a verdict says about the text itself; empty when it found nothing."""
    detail: dict[str, Any] = {}
    if verdict.findings:
        detail["findings"] = [[f.category, f.rule, f.start, f.end, f.score] for f in verdict.findings]
    if verdict.reason:
        detail["reason"] = verdict.reason
    if verdict.redacted is not None:
        detail["redacted"] = verdict.redacted
    return detail


def _verdict(record: Record, detail: Mapping[str, Any]) -> Verdict:
    return Verdict(
        action=Action(record["action"]),
        score=unmicro(record["score"]),
        categories=MappingProxyType({name: unmicro(score) for name, score in record["categories"].items()}),
        findings=tuple(Finding(*row) for row in detail.get("findings", ())),
        reason=detail.get("reason", ""),
        policy=record["policy"],
        milliseconds=record["us"] / 1000,
        redacted=detail.get("redacted"),
    )


def _sampling_record(sampling: Sampling) -> Record:
    """Every value as exact text: a seed may need 64 bits, and a replay needs the very same temperature."""
    values = {f.name: getattr(sampling, f.name) for f in fields(Sampling) if f.name != "stop"}
    return {name: repr(value) for name, value in values.items() if value is not None}


def _sampling(record: Record, stop: Sequence[str]) -> Sampling:
    values: dict[str, Any] = {}
    for f in fields(Sampling):
        if f.name in record:
            values[f.name] = float(record[f.name]) if isinstance(f.default, float) else int(record[f.name])
    return Sampling(**values, stop=tuple(stop))


def _usage_record(usage: Usage) -> Record:
    record: Record = {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "reply_tokens": usage.reply_tokens,
        "load_us": micro(usage.load_seconds),
        "prefill_us": micro(usage.prefill_seconds),
        "decode_us": micro(usage.decode_seconds),
        "uj": None if usage.joules is None else micro(usage.joules),
        "energy_source": usage.energy_source,
    }
    return {**record, "served": dict(usage.served)} if usage.served else record


def _usage(record: Record) -> Usage:
    return Usage(
        prompt_tokens=record["prompt_tokens"],
        cached_tokens=record["cached_tokens"],
        reply_tokens=record["reply_tokens"],
        load_seconds=unmicro(record["load_us"]),
        prefill_seconds=unmicro(record["prefill_us"]),
        decode_seconds=unmicro(record["decode_us"]),
        joules=None if record["uj"] is None else unmicro(record["uj"]),
        energy_source=record["energy_source"],
        served=record.get("served", {}),
    )
