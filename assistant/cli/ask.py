"""`pellucid ask`: one prompt, one reply, no screen. The same pipeline as the terminal application."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import click

from assistant.cli.common import Progress, db_option, echo_json, load_settings, model_options, open_ledger, read_text, sampling_options
from assistant.cli.main import INTERRUPTED, say
from assistant.errors import UsageError
from assistant.events import Event, Finished, Moderated, Notice, PromptChecked, Text, Withdrawn
from assistant.loading import together
from assistant.pipeline import Request
from assistant.session import Session
from assistant.tui.sanitize import StreamSanitizer
from assistant.turn import Turn
from safety.verdict import Action, Verdict

BLOCKED_PROMPT, BLOCKED_OUTPUT, FLAGGED = 10, 11, 12


@click.command()
@click.argument("text")
@click.option("-c", "--continue", "carry_on", is_flag=True, help="Continue the latest conversation.")
@click.option("--conversation", metavar="ID", help="Continue this conversation.")
@click.option("-s", "--system", help="The system prompt.")
@click.option("--raw", is_flag=True, help="Continue the text itself, without a chat format.")
@click.option("--seed", type=int, help="Makes the reply repeatable.")
@click.option("--stop", multiple=True, help="End the reply before this string (may be given several times).")
@click.option("--no-log", is_flag=True, help="Leave no trace in the log.")
@click.option("--strict", is_flag=True, help="Exit with 12 when anything was flagged.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@sampling_options
@model_options
@db_option
def ask(text: str, **flags: Any) -> None:
    """Ask one question. TEXT may be - to read standard input.

    The reply goes to stdout, everything else to stderr. Exit codes: 10 prompt blocked, 11 output blocked, 12 flagged with --strict.
    """
    with together() as first:
        if first:
            answer(text, **flags)


def answer(
    text: str, carry_on: bool, conversation: str | None, raw: bool, seed: int | None, stop: tuple[str, ...],
    no_log: bool, strict: bool, as_json: bool, db: str | None, **flags: Any,
) -> None:  # fmt: skip
    """One turn in a session of its own; ends the program with its exit code."""
    settings = load_settings(db, **flags)
    prompt = read_text(text)
    if not prompt.strip():
        raise UsageError("the prompt is empty: write something to ask")
    sampling = settings.sampling(seed, stop)
    if no_log and (carry_on or conversation):
        raise UsageError("--no-log cannot continue a conversation, for it does not read the log")
    with open_ledger(settings, log=not no_log) as ledger:
        _report_recovered(ledger.recover())
        parent = None
        if carry_on or conversation:
            parent = ledger.latest_turn(conversation)
            if parent is None:
                raise UsageError("there is no conversation to continue: ask without -c first")
        system = parent.system if parent and not flags.get("system") else settings.system
        request = Request(
            prompt, sampling, conversation=parent.conversation if parent else None, parent=parent.id if parent else None,
            system=system, raw=raw,
        )  # fmt: skip
        progress = Progress()
        session = Session(settings, ledger)
        session.load(progress)
        progress.done()
        turn, interrupted = run(session, request, quiet=as_json)
    if as_json:
        echo_json(as_dict(turn))
    sys.exit(exit_code(turn, interrupted, strict))


def run(session: Session, request: Request, *, quiet: bool) -> tuple[Turn, bool]:
    """Show the events of one turn as they come; returns the turn and whether Ctrl-C stopped it.

    The first Ctrl-C ends the reply and keeps what was written, a second one ends the program.
    """
    cancel = threading.Event()

    def stop(number: int, frame: object) -> None:
        cancel.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    shown = StreamSanitizer()
    turn: Turn | None = None
    try:
        for event in session.respond(request, cancel):
            if isinstance(event, Finished):
                turn = event.turn
            elif not quiet:
                show(event, shown)
    finally:
        signal.signal(signal.SIGINT, before)
    assert turn is not None  # `respond` ends with Finished or raises
    if not quiet:
        click.echo(turn.reply if turn.finish == "blocked_prompt" else shown.finish())
    return turn, cancel.is_set()


def show(event: Event, shown: StreamSanitizer) -> None:
    """One event on the terminal: the reply on stdout, the rest on stderr."""
    if isinstance(event, Text):
        click.echo(shown.feed(event.text), nl=False)
    elif isinstance(event, Withdrawn):
        click.echo(err=True)
        say(f"the reply was withdrawn: {event.verdict.reason}")
        click.echo("\n" + event.refusal, nl=False)
    elif isinstance(event, Notice):
        say(event.text)
    elif isinstance(event, PromptChecked):
        _tell("prompt", event.verdict)
    elif isinstance(event, Moderated) and event.final and event.verdict.action is not Action.BLOCK:
        if event.verdict.action is not Action.ALLOW:
            click.echo(err=True)
        _tell("reply", event.verdict)


def _tell(what: str, verdict: Verdict) -> None:
    if verdict.action is not Action.ALLOW:
        say(f"{what}: {verdict.action.value} ({verdict.category} {verdict.score:.2f}, {verdict.policy}): {verdict.reason}")


def _report_recovered(turns: list[str]) -> None:
    for turn in turns:
        say(f"turn {turn} was interrupted when the program ended; what had been written was kept (`pellucid audit show {turn}`)")


def exit_code(turn: Turn, interrupted: bool, strict: bool) -> int:
    """The exit code that a turn's end calls for."""
    if turn.finish == "blocked_prompt":
        return BLOCKED_PROMPT
    if turn.finish == "blocked_output":
        return BLOCKED_OUTPUT
    if interrupted:
        return INTERRUPTED
    verdicts = [turn.prompt_verdict, *([turn.output_verdict] if turn.output_verdict else [])]
    return FLAGGED if strict and any(v.action is not Action.ALLOW for v in verdicts) else 0


def as_dict(turn: Turn) -> dict[str, Any]:
    """A turn under the public JSON names of `ask --json` (see README)."""
    return {
        "turn": turn.id,
        "conversation": turn.conversation,
        "reply": turn.reply,
        "finish": turn.finish,
        "prompt_verdict": turn.prompt_verdict.to_dict(),
        "output_verdict": turn.output_verdict.to_dict() if turn.output_verdict else None,
        "usage": turn.usage.to_dict(),
        "model": {
            "name": turn.model.name, "sha256": turn.model.sha256, "dtype": turn.model.dtype, "device": turn.model.device,
        },
        "seed": turn.sampling.seed,
        "notices": list(turn.notices),
    }  # fmt: skip
