"""The whole program on one page: a prompt comes in, events go out, and everything that was decided is in the ledger.

    prompt ─► guard.filter_prompt ─► engine.generate ─┬─► moderator.feed (on the growing reply) ─► shown
                                                      └─► ledger (intent before, turn after; attributions when asked)

Whoever calls `respond` (terminal application, command line, server) only shows events; nothing else generates, moderates or logs.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assistant import continuing, language
from assistant.events import Event, Finished, Moderated, Notice, Prefilled, PromptChecked, Text, Token, Withdrawn
from assistant.turn import Finish, Message, ReplyToken, Sampling, Turn, Usage
from safety.verdict import Action, Verdict

if TYPE_CHECKING:
    from assistant.engines import Engine
    from assistant.store.ledger import Ledger
    from safety.guard import Guard


@dataclass(frozen=True, slots=True)
class Request:
    """What the person asks for."""

    prompt: str
    sampling: Sampling
    conversation: str | None = None
    """None starts a new conversation."""
    parent: str | None = None
    """The turn to answer after; its ancestors are the context. Siblings (regenerate, edit) share a parent."""
    system: str = ""
    raw: bool = False
    """Continue the text itself, without a chat format."""
    earlier: tuple[Message, ...] = ()
    """A conversation that the client brings along, in place of a parent; filtered by whoever takes it in (see `served.api`)."""
    client: str = ""
    """Whose key asked, as a pseudonym, where the program serves several."""
    continues: str | None = None
    """The turn whose cut reply is gone on with; prompt and parent must be that turn's. The new turn has the whole reply."""


def respond(request: Request, *, engine: Engine, guard: Guard, ledger: Ledger, cancel: threading.Event | None = None) -> Iterator[Event]:
    """Answer one prompt. Yields `PromptChecked` first and `Finished` last; the turn is durable in the ledger by then.

    Setting `cancel` ends the reply after the current token; what was written is kept (`finish` = `stopped`).
    """
    history = [turn for turn in ledger.thread(request.parent) if turn.in_context]
    prompt = language.clean_intake(request.prompt)

    # 1. The filter decides before the model sees a word.
    verdict = guard.filter_prompt(prompt, context=[(m.role, m.text) for m in [*request.earlier, *as_messages("", history)]])
    if verdict.redacted is not None:
        prompt = verdict.redacted
    turn = new_turn(request, prompt, verdict, engine, history)
    yield PromptChecked(turn.id, turn.conversation, prompt, verdict)
    if verdict.action is Action.BLOCK:
        turn = replace(turn, reply=guard.refusal(verdict, turn.language), finish="blocked_prompt")
        ledger.open_turn(turn)
        ledger.close_turn(turn)
        yield Finished(turn)
        return

    # 2. The prompt becomes token ids; the intent is durable before anything is generated.
    ids = engine.render_raw(prompt) if request.raw else engine.render(
        as_messages(request.system, history, prompt, request.earlier), reserve=request.sampling.max_tokens
    )  # fmt: skip
    begun = ""
    if request.continues:
        cut = ledger.turn(request.continues)
        ids, begun = continuing.open_reply(ids, cut, engine), cut.reply
    notices = guard.notices(turn.language) + language.notices(turn.language, engine, ids, earlier=[t.language for t in history])
    turn = replace(turn, prompt_ids=ids.ids, notices=notices)
    generation = engine.generate(ids, turn.sampling, cancel=cancel)  # made ready; it begins with its first token
    ledger.open_turn(turn)
    if request.continues:
        ledger.record_event("reply.continue", {"turn": turn.id, "continues": request.continues})
    for text in turn.notices:
        yield Notice(text)

    # 3. Generate; every token passes moderation before its text is shown.
    moderator = guard.moderator(prompt, system=request.system)
    tokens: list[ReplyToken] = []
    shown: list[str] = []
    output, finish = Verdict(Action.ALLOW), None
    try:
        if begun and (release := moderator.feed(begun)).text:
            shown.append(release.text)
            yield Text(release.text)
        for token in generation:
            if not tokens:
                yield Prefilled(generation.prompt_tokens, generation.cached_tokens, engine.context_length)
            tokens.append(token)
            yield Token(token)
            release = moderator.feed(token.text)
            if release.text:
                shown.append(release.text)
                yield Text(release.text)
            if release.verdict != output:
                output = release.verdict
                yield Moderated(output, final=False)
            if output.action is Action.BLOCK:
                break
            ledger.journal(turn.id, "".join(shown), tokens)
        finish = generation.finish
    except Exception:  # the engine failed: what was written is kept, then the error goes on to the caller
        finish = "error"
        raise
    finally:
        release = moderator.finish()
        output = release.verdict
        turn = replace(turn, tokens=tuple(tokens), output_verdict=output, usage=generation.usage)
        if output.action is Action.BLOCK:
            turn = replace(turn, reply=guard.refusal(output, turn.language), finish="blocked_output")
        else:
            turn = replace(turn, reply="".join(shown) + release.text, finish=finish or "stopped")
        ledger.close_turn(turn)

    # 4. The last word of the moderation.
    if turn.finish == "blocked_output":
        yield Withdrawn(turn.reply, output)
    elif release.text:
        yield Text(release.text)
    yield Moderated(output, final=True)
    yield Finished(turn)


def as_messages(system: str, history: list[Turn], prompt: str | None = None, earlier: tuple[Message, ...] = ()) -> list[Message]:
    """The conversation as the model is shown it."""
    messages = [*([Message("system", system)] if system else []), *earlier]
    for turn in history:
        messages += [Message("user", turn.prompt), Message("assistant", turn.reply)]
    return [*messages, Message("user", prompt)] if prompt is not None else messages


def new_turn(request: Request, prompt: str, verdict: Verdict, engine: Engine, history: list[Turn]) -> Turn:
    """A turn with nothing generated yet, and with the seed it will use."""
    seed = request.sampling.seed
    finish: Finish = "error"  # until it ends otherwise
    return Turn(
        id=new_id(),
        conversation=request.conversation or (history[-1].conversation if history else new_id()),
        parent=request.parent,
        prompt=prompt,
        reply="",
        finish=finish,
        prompt_verdict=verdict,
        output_verdict=None,
        usage=Usage(),
        model=engine.info,
        sampling=replace(request.sampling, seed=uuid.uuid4().int % 2**63 if seed is None else seed),
        system=request.system,
        raw=request.raw,
        language=language.detect(prompt),
        created_us=time.time_ns() // 1000,
        client=request.client,
        earlier=request.earlier,
    )


def new_id() -> str:
    """26 characters that sort by time: 48 bits of milliseconds and 80 random bits (the ULID layout)."""
    number = (time.time_ns() // 1_000_000) << 80 | uuid.uuid4().int & (1 << 80) - 1
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "".join(alphabet[number >> shift & 31] for shift in range(125, -1, -5))
