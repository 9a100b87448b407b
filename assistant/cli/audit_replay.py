"""`audit replay`: would the logged model have written the logged reply? The one audit command that loads a model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assistant.audit.engines import Engines
from assistant.cli.audit_common import database_options, open_ledger, plain, print_json, progress_bar, say
from assistant.cli.cluster_options import cluster_options, logged_turns, sampled, wants_file, work_through
from assistant.errors import UsageError

if TYPE_CHECKING:
    from assistant.audit.replay import Replay


@click.command()
@click.argument("turns", nargs=-1)
@click.option("--sample", type=click.IntRange(min=1), help="Replay this many turns, drawn from the whole log.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which sample.")
@click.option("--exact", is_flag=True, help="Generate token by token as then, to find bit for bit the same.")
@click.option("--model", help="The model file to replay with; the logged model is looked up otherwise.")
@click.option("--tokens", "by_token", is_flag=True, help="Also every token: difference of log-probability, margin.")
@click.option("--safety/--no-safety", default=True, help="Also judge prompts and replies again.")
@cluster_options
@database_options
@click.pass_context
def replay(
    ctx: click.Context, db: Path | None, as_json: bool, turns: tuple[str, ...], sample: int | None, seed: int, exact: bool,
    model: str | None, by_token: bool, safety: bool, output: Path | None, cluster: str | None, workers: int,
) -> None:  # fmt: skip
    """Score logged replies again with the logged model, seed and sampling, and judge their safety again.

    EXACT and CONSISTENT: this model wrote this. SAMPLER-MISMATCH: it would have chosen other tokens. MODEL-MISMATCH: another
    model, prompt or text. NOT-REPLAYABLE: erased, blocked, or the model is not here. Exit code 1 when anything contradicts the log.
    """
    from assistant.audit.replay import replay as run

    if not turns and sample is None:
        raise UsageError("say which turn to replay, or --sample N for a sample of the log")
    results: list[Replay] = []
    texts: list[list[str]] = []
    with open_ledger(db) as ledger:
        ids = [ledger.turn(turn).id for turn in turns]
        if sample is not None:
            ids += sampled(ledger, sample, seed)
        if wants_file(output, cluster):
            from assistant.cluster.jobs import Replaying

            job, source = Replaying(model, exact, safety, by_token), hashlib.sha256(" ".join(ids).encode()).hexdigest()
            items = logged_turns(ledger, ids)
            work_through(job, items, output, source=source, cluster=cluster, workers=workers, total=len(ids), what="replayed")
            assert output is not None
            ctx.exit(_told(output))
        engines = Engines(model)
        show = progress_bar("replaying")
        for done, id_ in enumerate(ids, 1):
            turn = ledger.turn(id_)
            engine = engines.engine(turn.model) if turn.tokens and not turn.erased else None
            guard = engines.guard(turn.prompt_verdict.policy) if safety else None
            results.append(run(ledger, id_, engine, guard, exact=exact))
            texts.append([token.text for token in turn.tokens])
            show(done, len(ids))
    if as_json:
        print_json([result.to_dict(steps=by_token) for result in results])
    else:
        for result, words in zip(results, texts, strict=True):
            click.echo(plain(_line(result)))
            for number, ((delta, margin), word) in enumerate(zip(result.steps, words, strict=False) if by_token else ()):
                click.echo(plain(f"{number:>6}  Δlogp {delta:<10.3g} margin {margin:<10.3g} {word!r}"))
        if len(results) > 1:
            tally = {result.outcome.value: sum(other.outcome == result.outcome for other in results) for result in results}
            say(", ".join(f"{count} {name}" for name, count in tally.items()))
    for reason in engines.troubles:
        say(reason)
    ctx.exit(int(not all(result.is_faithful for result in results)))


def _told(output: Path) -> int:
    """The outcomes in a file, counted on stderr; returns the exit code."""
    from collections import Counter

    from assistant.cluster.output import lines

    found = [(result["outcome"], result["faithful"]) for result in lines(output)]
    say(", ".join(f"{count} {name}" for name, count in Counter(name for name, _ in found).items()))
    return int(not all(faithful for _, faithful in found))


def _line(result: Replay) -> str:
    text = f"{result.turn} {result.outcome.value:<16}"
    if result.tokens:
        margin = f"{result.worst_margin:.2g}" if result.worst_margin < float("inf") else "cut"
        text += f" {result.tokens} tokens, {result.mismatches} differ, margin {margin}, Δlogp {result.worst_logprob:.2g}"
        text += f"; prompt {result.prompt}"
    if result.ended is False:
        text += "; the model would not have ended here"
    for side, answer in result.safety.items():
        text += f"; {side} verdict {answer}"
    return text + (f" ({result.reason})" if result.reason else "")


COMMANDS = (replay,)
