"""A scripted session and a ledger in memory: the terminal application can be driven without a model, torch or a disk."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

from assistant.errors import LedgerError
from assistant.events import Finished, Moderated, Notice, Prefilled, PromptChecked, Text, Token, Withdrawn
from assistant.language import detect
from assistant.settings import Settings
from assistant.turn import Candidate, ModelInfo, ReplyToken, Sampling, Turn, Usage
from explain.attribution import Attribution
from safety.verdict import Action, Verdict

LAG = float(os.environ.get("PELLUCID_TEST_LAG", "0"))  # seconds; read here: the tests run without the settings of the person
MODEL = ModelInfo("smollm2-135m", "b179c952" * 8, "float32", "cpu")
BEGAN = 1_763_900_000_000_000  # 2025-11-23 12:13:20 UTC
ALLOW = Verdict(Action.ALLOW, 0.02, {"violence": 0.02}, policy="balanced@1a2b3c4d", milliseconds=1.4)


def tokens_of(text, size=4):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    out = []
    for index, piece in enumerate(pieces):
        logprob = -0.1 - (index * 7 % 11) / 5
        others = (Candidate(index, piece, logprob), Candidate(100_008, " else", logprob - 1), Candidate(100_009, "别的", logprob - 2.5))
        out.append(ReplyToken(index, index, piece, logprob, 1.0, others))
    return tuple(out)


def make_turn(number, prompt, reply, parent=None, conversation="C1", **changes):
    tokens = tokens_of(reply)
    turn = Turn(
        id=f"T{number:04d}", conversation=conversation, prompt=prompt, reply=reply, finish="stop", prompt_verdict=ALLOW,
        output_verdict=ALLOW, model=MODEL, sampling=Sampling(seed=7), parent=parent, tokens=tokens,
        created_us=BEGAN + number * 60_000_000, language=detect(prompt),
        usage=Usage(31, 0, len(tokens), 1.0, 0.2, len(tokens) / 14.2, len(tokens) * 0.9, "estimated: 5 W per core"),
    )  # fmt: skip
    return replace(turn, **changes)


@dataclass
class Script:
    """How the next prompt is answered."""

    reply: str = "The sky is blue because short waves scatter more."
    prompt_verdict: Verdict = ALLOW
    output_verdict: Verdict = ALLOW
    notices: tuple = ()
    refusal: str = "I can't help with that."
    error: Exception | None = None
    error_after: int = 0
    gate_after: int | None = None
    """Wait after so many tokens until the test says `session.release()`."""
    block_after: int | None = None


def _passes(turn, verdict=None, language=None, model=None, since=None):
    worst = max((turn.prompt_verdict, turn.output_verdict or turn.prompt_verdict), key=lambda v: v.action.severity).action.value
    wrong = (verdict == "flagged" and worst == "allow") or verdict not in (None, "flagged", worst)
    return not wrong and language in (None, turn.language) and model in (None, turn.model.name) and turn.created_us >= (since or 0)


class MemoryLedger:
    """The questions of the real ledger, answered from a dict."""

    def __init__(self, turns=()):
        self.all = {t.id: t for t in turns}
        self.titles = {}
        self.kept = {}
        self.events = []
        self.calls = []
        self.reviewed = set()

    def turn(self, turn_id):
        if turn_id not in self.all:
            raise LedgerError(f"there is no turn {turn_id!r} in the log")
        return self.all[turn_id]

    def turns(self, conversation):
        self.calls.append(("turns", conversation))
        return [replace(t, tokens=()) for t in self.all.values() if t.conversation == conversation]

    def latest_turn(self, conversation=None):
        found = [t for t in self.all.values() if conversation in (None, t.conversation)]
        return found[-1] if found else None

    def conversations(self, limit=50, before=None):
        rows = {}
        for t in self.all.values():
            rows.setdefault(t.conversation, []).append(t)
        out = [
            SimpleNamespace(
                id=c, title=self.titles.get(c, ts[0].prompt[:40]), turns=len(ts), updated_us=ts[-1].created_us,
                flagged=any(t.prompt_verdict.action is not Action.ALLOW for t in ts),
            )
            for c, ts in rows.items()
        ]  # fmt: skip
        out.sort(key=lambda row: -row.updated_us)
        ids = [row.id for row in out]
        start = ids.index(before) + 1 if before in ids else 0
        return out[start : start + limit]

    def rename(self, conversation, title):
        self.titles[conversation] = title

    def attributions(self, turn_id):
        return list(self.kept.get(turn_id, ()))

    def search(self, query, *, limit=20, before=None, **filters):
        self.calls.append(("search", query, filters))
        hits = []
        for seq, t in reversed(list(enumerate(self.all.values(), 1))):
            if not _passes(t, **filters):
                continue
            for side in ("prompt", "reply"):
                at = getattr(t, side).lower().find(query.lower())
                if at >= 0 and (before is None or seq < before):
                    text = getattr(t, side)
                    start = max(0, at - 10)
                    spans = ((at - start, at - start + len(query)),)
                    hits.append(
                        SimpleNamespace(
                            seq=seq, turn=t.id, conversation=t.conversation, created_us=t.created_us, side=side,
                            snippet=text[start : at + 40], matches=spans, verdict="allow", language=t.language,
                        )
                    )  # fmt: skip
                    break
        return hits[:limit]

    def list_turns(self, *, before=None, limit=50, verdict=None, reviewed=None, **filters):
        self.calls.append(("list_turns", before, verdict))
        rows = []
        for seq, t in reversed(list(enumerate(self.all.values(), 1))):
            worst = max((t.prompt_verdict, t.output_verdict or t.prompt_verdict), key=lambda v: v.action.severity)
            action = worst.action.value
            if before is not None and seq >= before:
                continue
            if not _passes(t, verdict=verdict, **filters) or (reviewed is False and t.id in self.reviewed):
                continue
            rows.append(
                SimpleNamespace(
                    seq=seq, turn=t.id, conversation=t.conversation, parent=t.parent, created_us=t.created_us,
                    prompt=t.prompt, reply=t.reply, finish=t.finish, verdict=action, category=worst.category,
                    score=worst.score, model=t.model.name, language=t.language, reviewed=False, erased=False,
                )
            )  # fmt: skip
        return rows[:limit]

    def query(self, sql, parameters=()):
        return []  # nobody has judged or erased anything

    def release_memory(self):
        self.calls.append(("release_memory",))

    @contextlib.contextmanager
    def transaction(self):
        yield SimpleNamespace(append=lambda kind, fields: self.events.append((kind, dict(fields))))

    def record_event(self, kind, fields):
        self.events.append((kind, dict(fields)))
        return len(self.events)


@dataclass
class FakeSession:
    """Answers every prompt as the next `Script` says."""

    settings: Settings = field(default_factory=lambda: Settings(language="en", theme="pellucid-dark"))
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    loaded: bool = True
    load_error: Exception | None = None
    scripts: list = field(default_factory=list)

    def __post_init__(self):
        self.engine = self._engine() if self.loaded else None
        self.guard = object() if self.loaded else None
        self.requests = []
        self.explained = []
        self.ablated = []
        self.gate = threading.Event()
        self.load_gate = threading.Event()
        self.explain_gate = threading.Event()
        self.explain_gate.set()
        self.explain_error = None

    def _engine(self):
        return SimpleNamespace(info=replace(MODEL, name=self.settings.model), context_length=2048)

    @property
    def ready(self):
        return self.engine is not None and self.guard is not None

    def load(self, progress=lambda what, fraction: None):
        progress("model", 0.42)
        time.sleep(LAG)
        if not self.loaded:
            self.load_gate.wait(10)
        if self.load_error:
            raise self.load_error
        self.engine, self.guard = self._engine(), object()

    def release(self):
        self.gate.set()

    def respond(self, request, cancel=None):
        """The scripted events; PELLUCID_TEST_LAG=0.05 keeps each back for so long, so that a test that races them fails."""
        for event in self._respond(request, cancel):
            time.sleep(LAG)
            yield event
        time.sleep(LAG)

    def _respond(self, request, cancel):
        self.requests.append(request)
        script = self.scripts.pop(0) if self.scripts else Script()
        if script.error and not script.error_after:
            raise script.error
        number = len(self.ledger.all) + 1
        prompt = script.prompt_verdict.redacted or request.prompt
        conversation = request.conversation or f"C{number}"
        turn = make_turn(
            number, prompt, "", request.parent, conversation, prompt_verdict=script.prompt_verdict, tokens=(),
            system=request.system, notices=script.notices, sampling=replace(request.sampling, seed=7), output_verdict=None,
            usage=Usage(),
        )  # fmt: skip
        yield PromptChecked(turn.id, turn.conversation, prompt, script.prompt_verdict)
        if script.prompt_verdict.action is Action.BLOCK:
            turn = replace(turn, reply=script.refusal, finish="blocked_prompt")
            self.ledger.all[turn.id] = turn
            yield Finished(turn)
            return
        for text in script.notices:
            yield Notice(text)
        yield Prefilled(31, 0, 2048)
        finish, shown, tokens = "stop", "", tokens_of(script.reply)
        if request.continues:
            shown = self.ledger.all[request.continues].reply
            yield Text(shown)
        for count, token in enumerate(tokens):
            if script.gate_after == count:
                while not self.gate.wait(0.02) and not (cancel and cancel.is_set()):
                    pass
                self.gate.clear()
            if cancel and cancel.is_set():
                finish = "stopped"
                break
            if script.error and script.error_after == count:
                self.ledger.all[turn.id] = replace(turn, reply=shown, finish="error", tokens=tokens[:count])
                raise script.error
            yield Token(token)
            if script.block_after == count:
                finish = "blocked_output"
                break
            shown += token.text
            yield Text(token.text)
        made = tokens[: count + 1] if finish != "stopped" else tokens[:count]
        n = len(made)
        usage = Usage(31, 0, n, 1.0, 0.2, n / 14.2, n * 0.9, "estimated: 5 W per core")
        turn = replace(
            turn, reply=shown, finish=finish, tokens=made, usage=usage, output_verdict=script.output_verdict
        )  # fmt: skip
        if finish == "blocked_output":
            turn = replace(turn, reply=script.refusal)
            yield Withdrawn(turn.reply, script.output_verdict)
        self.ledger.all[turn.id] = turn
        yield Moderated(script.output_verdict, final=True)
        yield Finished(turn)

    def ablate(self, turn, *, inputs, part, token):
        time.sleep(LAG)
        self.ablated.append((turn, tuple(inputs[i] for i in part), token))
        if self.explain_error:
            raise self.explain_error
        return SimpleNamespace(
            removed="".join(inputs[i] for i in part), before=-0.5, after=-2.0, candidates=(Candidate(100_008, " else", -0.7),)
        )

    def explain(self, turn, *, method="ablation", token=None, against=None, progress=lambda what, fraction: None, cancel=None, **more):
        self.explained.append((turn, method, token, more) if more else (turn, method, token))
        progress("perturbing", 0.5)
        time.sleep(LAG)
        while not self.explain_gate.wait(0.02):
            if cancel and cancel.is_set():
                raise InterruptedError
        if self.explain_error:
            raise self.explain_error
        attribution = attribution_of(self.ledger.turn(turn), method, token)
        if against is not None:
            attribution = replace(attribution, target=f"token {token} not {against}")
        self.ledger.kept.setdefault(turn, []).append(attribution)
        return attribution


def attribution_of(turn, method="ablation", token=None):
    """A made-up but deterministic attribution; 天 of the prompt is cut into two pieces, as byte-level tokenizers do."""
    inputs, roles = ["<|im_start|>", "system\n"], ["format", "format"]
    for role, text in (("system", turn.system or "Be brief."), ("user", turn.prompt)):
        for word in tokens_of(text, 3):
            if word.text == "":
                continue
            inputs.append(word.text)
            roles.append(role)
        inputs.append("<|im_end|>\n")
        roles.append("format")
    outputs = [t.text for t in turn.tokens] if token is None else [turn.tokens[token].text]
    first = token or 0
    scores = [
        [0.0 if role == "format" else (((i * 31 + (o + first) * 17) % 23) - 8) / 10 for i, role in enumerate(roles)]
        for o in range(len(outputs))
    ]
    quality = {
        "method": method,
        "steps": 32,
        "grade": "supported",
        "completeness_error": 0.02,
        "deletion_drop": 4.2,
        "deletion_random_mean": 1.1,
        "seconds": 1.2,
    }
    target = "reply" if token is None else f"token {token}"
    return Attribution(method, target, tuple(inputs), tuple(outputs), tuple(map(tuple, scores)), quality, tuple(roles))


def now():
    return time.monotonic()
