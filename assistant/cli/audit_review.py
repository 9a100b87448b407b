"""`audit review next|add|list|export` and `audit stats`: people judging the verdicts, and the figures that follow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from assistant.cli.audit_common import (
    TIME,
    database_options,
    fit,
    json_text,
    log_export_option,
    note_export,
    open_ledger,
    plain,
    print_json,
    say,
    when,
)


@click.group()
def review() -> None:
    """Review what the filters decided: a queue, labels and notes, labelled texts as training data."""


@review.command("next")
@click.option(
    "--from", "source", type=click.Choice(["flagged", "margin", "random"]), default="flagged", show_default=True,
    help="Flagged turns, those nearest to the other verdict, or a random sample.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many turns.")
@click.option("--seed", type=int, default=0, show_default=True, help="For the random sample.")
@database_options
def next_turns(db: Path | None, as_json: bool, source: Any, limit: int, seed: int) -> None:
    """The turns to be reviewed next; none that has been reviewed already."""
    from assistant.audit.review import queue

    with open_ledger(db) as ledger:
        rows = queue(ledger, source, limit, seed)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    for row in rows:
        head = f"{plain(row.turn)} {row.verdict:<7} {row.score:.3f} {plain(row.category):<16.16} "
        click.echo(head + fit(row.prompt, 60).rstrip())
    if not rows:
        say("nothing is left to review here")


@review.command("add")
@click.argument("turn")
@click.option("--label", type=click.Choice(["safe", "unsafe", "unsure"]), required=True, help="Your judgement of the text.")
@click.option("--side", type=click.Choice(["prompt", "reply"]), help="Which text; the one judged more severely if not given.")
@click.option("--category", default="", help="The true category, where it is unsafe.")
@click.option("--note", default="", help="Why.")
@click.option("--reviewer", default="", help="Who; your login name if not given.")
@database_options
def add(db: Path | None, as_json: bool, turn: str, label: Any, side: Any, category: str, note: str, reviewer: str) -> None:
    """Judge one text of a turn. TURN is an id or the beginning of one."""
    from assistant.audit.review import add_review, login_name

    with open_ledger(db, write=True) as ledger:
        seq = add_review(ledger, turn, label, side=side, category=category, note=note, reviewer=reviewer or login_name())
    print_json({"seq": seq}) if as_json else say(f"logged as record {seq}")


@review.command("list")
@database_options
def list_reviews(db: Path | None, as_json: bool) -> None:
    """All judgements; of several on one text the last."""
    from assistant.audit.review import reviews

    with open_ledger(db) as ledger:
        found = reviews(ledger)
    if as_json:
        print_json([asdict(r) for r in found])
        return
    for r in found:
        agrees = {"unsure": "?", "safe": "✗" if r.was_flagged else "✓"}.get(r.label, "✓" if r.was_flagged else "✗")
        click.echo(plain(f"{when(r.ts)} {r.turn} {r.side:<6} {r.verdict:<7} {agrees} {r.label:<6} {r.category} {r.note}").rstrip())


@review.command("export")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write (0600); stdout when not given.")
@log_export_option
@database_options
def export_reviews(db: Path | None, as_json: bool, output: Path | None, log_export: bool) -> None:
    """The labelled texts as JSON lines, as `pellucid safety train` reads them. The texts leave the log: mind where
    to.
    """
    from assistant.audit.export.target import writing
    from assistant.audit.review import training_rows

    note_export(db, "training", log_export, texts=True)
    with open_ledger(db) as ledger:
        rows = list(training_rows(ledger))
    if as_json:
        print_json(rows)
    elif output is None:
        for row in rows:
            click.echo(json_text(row))
    else:
        with writing(output) as file:
            file.writelines(json_text(row) + "\n" for row in rows)
        say(f"written: {output} ({len(rows)} texts)")


@click.command()
@click.option(
    "--by", type=click.Choice(["day", "verdict", "category", "language", "model", "finish"]), default="day",
    show_default=True, help="What to group the turns by.",
)  # fmt: skip
@click.option("--since", type=TIME, help="Not before the day of this time (UTC).")
@click.option("--until", type=TIME, help="Not after the day of this time (UTC).")
@database_options
def stats(db: Path | None, as_json: bool, by: Any, since: int | None, until: int | None) -> None:
    """Turns, flagged turns, tokens, seconds and energy, and how often the filters were wrong according to the
    reviews.
    """
    from assistant.audit import stats as figures

    with open_ledger(db) as ledger:
        groups = figures.group(ledger, by, since, until)
        latencies, judged = figures.latencies(ledger, since, until), figures.judged(ledger)
    if as_json:
        print_json({
            "by": by, "groups": [g.to_dict() for g in groups], "latency_seconds": latencies,
            "reviews": [j.to_dict() for j in judged],
        })  # fmt: skip
        return
    click.echo(f"{by:<16}{'turns':>8}{'flagged':>9}{'tokens in':>11}{'out':>9}{'s/turn':>8}{'joules':>10}")
    for g, bar in zip(groups, figures.bars(groups), strict=True):
        click.echo(
            f"{fit(g.name, 16)}{g.turns:>8}{g.flagged:>9}{g.prompt_tokens:>11}{g.reply_tokens:>9}"
            f"{g.mean_seconds:>8.2f}{g.joules:>10.1f}  {bar}".rstrip()
        )
    if latencies:
        click.echo(f"seconds per reply: median {latencies['p50']:.2f}, 95 % within {latencies['p95']:.2f}")
    for j in judged:
        if j.reviewed:
            click.echo(
                f"reviewed {j.side}s: {j.reviewed}, falsely flagged {_rate(j.false_positive_rate)} of the safe, "
                f"missed {_rate(j.false_negative_rate)} of the unsafe"
            )


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


COMMANDS = (review, stats)
