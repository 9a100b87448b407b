"""A logged turn as an auditor reads it: a tree of what each layer did, the texts, and the record as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from textual.content import Content

from assistant.tui.format import category, footer, moment, verdict_words
from assistant.tui.rendering import marked, safe
from assistant.tui.sanitize import one_line, sanitize
from assistant.tui.stages import STYLES
from assistant.tui.text import say
from assistant.turn import Turn
from explain.attribution import Attribution
from safety.verdict import Action, Verdict

if TYPE_CHECKING:
    from assistant.audit.remarks import Remark


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree. `style` is a colour variable; the words say the same."""

    text: str
    style: str = ""
    children: tuple[Node, ...] = field(default=())


def trace(turn: Turn, attributions: Sequence[Attribution], remarks: Sequence[Remark] = ()) -> Node:
    """What happened in `turn`, layer by layer, and what people said of it since."""
    stages = [
        _verdict(say("trace.prompt"), turn.prompt_verdict, turn.prompt),
        _generation(turn),
        *([_verdict(say("trace.output"), turn.output_verdict, turn.reply)] if turn.output_verdict else []),
        *(_attribution(a) for a in attributions),
    ]
    if not attributions and turn.in_context:
        stages.append(Node(f"· {say('trace.attribution')} · {say('trace.not_computed')}"))
    stages += [_remark(remark) for remark in remarks]
    return Node(f"{say('trace.turn', id=turn.id)} · {moment(turn.created_us)}", "bold", tuple(stages))


def _verdict(name: str, verdict: Verdict, text: str) -> Node:
    scored = sorted(verdict.categories.items(), key=lambda item: -item[1])
    about = [Node(one_line(f"{category(kind)} {score:.2f}")) for kind, score in scored if score >= 0.01]
    for finding in verdict.findings:
        # offsets of a redacted prompt belong to the text before it was redacted: those words are gone
        words = "" if verdict.action is Action.REDACT else text[finding.start : finding.end]
        place = f"[{finding.start}:{finding.end}] {one_line(words, 40)}"
        about.append(Node(one_line(f"{finding.rule} · {category(finding.category)} {finding.score:.2f} {place}")))
    if verdict.reason:
        about.insert(0, Node(one_line(verdict.reason, 300)))
    if verdict.policy:
        about.append(Node(one_line(say("card.policy", policy=verdict.policy))))
    took = f" · {verdict.milliseconds:.1f} ms" if verdict.milliseconds else ""
    return Node(f"{name} · {verdict_words(verdict)}{took}", STYLES[verdict.action], tuple(about))


def _generation(turn: Turn) -> Node:
    if turn.finish == "blocked_prompt":
        return Node(f"— {say('trace.generate')}")
    sampling, usage = turn.sampling, turn.usage
    settings = f"T {sampling.temperature:g} · top-k {sampling.top_k} · top-p {sampling.top_p:g} · min-p {sampling.min_p:g}"
    about = [
        Node(one_line(f"{say('trace.model')}: {turn.model.name} · {turn.model.sha256[:12]} · {turn.model.dtype} · {turn.model.device}")),
        Node(f"{say('trace.sampling')}: {settings} · ×{sampling.repetition_penalty:g} · seed {sampling.seed}"),
        Node(
            f"{say('trace.usage')}: {usage.prompt_tokens} ({usage.cached_tokens}) + {usage.reply_tokens} · "
            f"{usage.prefill_seconds:.2f} s + {usage.decode_seconds:.2f} s"
        ),
    ]
    if turn.system:
        about.append(Node(one_line(f"{say('inspector.role_system')}: {turn.system}", 160)))
    about += [Node(one_line(f"· {text}", 160)) for text in turn.notices]
    return Node(f"{say('trace.generate')} · {footer(turn)}", "", tuple(about))


def _attribution(attribution: Attribution) -> Node:
    quality = [Node(one_line(f"{name}: {value}", 80)) for name, value in attribution.quality.items()]
    return Node(one_line(f"✓ {say('trace.attribution')} · {attribution.method} · {attribution.target}"), "$text-success", tuple(quality))


def _remark(remark: Remark) -> Node:
    by = f" · {one_line(remark.who, 40)}" if remark.who else ""
    why = (Node(one_line(remark.text, 1000)),) if remark.text else ()
    if remark.kind == "redact":
        return Node(f"— {say('trace.redact')} · {moment(remark.ts)}{by}", "$foreground 62%", why)
    label = say.get(f"audit.review_{remark.label}", remark.label)
    side = f" · {say.get('side.' + remark.side, remark.side)}" if remark.side else ""
    return Node(one_line(f"• {say('trace.review')}{side} · {label} · {moment(remark.ts)}{by}"), "", why)


def texts(turn: Turn) -> Content:
    """Prompt and reply in full, with the words marked that the checks found."""
    gone = Content.styled(say("audit.erased"), "italic $foreground 62%")
    findings = () if turn.prompt_verdict.action is Action.REDACT else turn.prompt_verdict.findings
    shown = turn.output_verdict is not None and turn.finish != "blocked_output"
    reply_findings = turn.output_verdict.findings if turn.output_verdict and shown else ()
    return Content("\n").join(
        [
            Content.styled(f"{say('side.prompt')} · {verdict_words(turn.prompt_verdict)}", "bold $text-primary"),
            marked(turn.prompt, findings) if turn.prompt else gone,
            Content(""),
            Content.styled(f"{say('side.reply')} · {one_line(turn.model.name, 40)}", "bold $text-primary"),
            (marked(turn.reply, reply_findings) if reply_findings else safe(turn.reply)) if turn.reply else gone,
        ]
    )


def as_json(turn: Turn, attributions: Sequence[Attribution]) -> str:
    """The turn under its public JSON names, sanitised."""
    record = {
        "turn": turn.id,
        "conversation": turn.conversation,
        "parent": turn.parent,
        "created_us": turn.created_us,
        "language": turn.language,
        "system": turn.system,
        "prompt": turn.prompt,
        "reply": turn.reply,
        "finish": turn.finish,
        "prompt_verdict": turn.prompt_verdict.to_dict(),
        "output_verdict": turn.output_verdict.to_dict() if turn.output_verdict else None,
        "usage": turn.usage.to_dict(),
        "model": asdict(turn.model),
        "sampling": asdict(turn.sampling),
        "attributions": [{"method": a.method, "target": a.target, "quality": dict(a.quality)} for a in attributions],
    }
    return sanitize(json.dumps(record, ensure_ascii=False, indent=2, default=str))
