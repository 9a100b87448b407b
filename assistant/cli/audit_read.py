"""`audit list`, `show` and `search`: reading the log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from assistant.cli.audit_common import (
    database_options,
    filter_options,
    fit,
    json_text,
    open_ledger,
    plain,
    print_json,
    say,
    when,
)


@click.command("list")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many turns.")
@click.option("--before", type=int, metavar="SEQ", help="Only turns before this record: the next page.")
@filter_options
@database_options
def list_turns(db: Path | None, as_json: bool, limit: int, before: int | None, **filters: Any) -> None:
    """List turns, newest first."""
    with open_ledger(db) as ledger:
        rows = ledger.list_turns(limit=limit, before=before, **filters)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    width = max(24, _columns())
    for row in rows:
        mark = "✎" if row.reviewed else " "
        head = f"{row.seq:>7} {when(row.created_us)} {plain(row.turn)} {row.verdict:<7} {row.finish:<14}{mark} "
        text = "(erased)" if row.erased and not row.prompt else row.prompt
        click.echo(head + fit(text, max(12, width - len(head))).rstrip())
    if len(rows) == limit:
        say(f"more: --before {rows[-1].seq}")
    if not rows:
        say("no turn matches")


@click.command()
@click.argument("turn")
@click.option("--tokens", is_flag=True, help="Also every token with its log-probability and alternatives.")
@database_options
def show(db: Path | None, as_json: bool, turn: str, tokens: bool) -> None:
    """Show one turn with everything that was decided about it. TURN is an id or the beginning of one."""
    from assistant.audit.present import turn_dict

    with open_ledger(db) as ledger:
        value = turn_dict(ledger, ledger.turn(turn), tokens=tokens)
    if as_json:
        print_json(value)
        return
    for name, item in value.items():
        if name == "tokens":
            click.echo("tokens:")
            for token in item:
                others = "  ".join(f"{c['text']!r} {c['logprob']:.3f}" for c in token["candidates"])
                click.echo(plain(f"  {token['index']:>4} {token['id']:>7} {token['logprob']:9.4f} {token['text']!r}  {others}"))
        elif isinstance(item, str) and (len(item) > 60 or "\n" in item):
            click.echo(f"{name}:\n" + "\n".join("  " + plain(line) for line in item.split("\n")))
        else:
            click.echo(f"{name}: {plain(item) if isinstance(item, str) else json_text(item)}")


@click.command()
@click.argument("query", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many hits.")
@click.option("--before", type=int, metavar="SEQ", help="Only turns before this record: the next page.")
@click.option("--in", "side", type=click.Choice(["prompt", "reply"]), help="Search prompts or replies only.")
@click.option("--ranked", is_flag=True, help="Best matches first instead of newest first.")
@filter_options
@database_options
def search(
    db: Path | None,
    as_json: bool,
    query: tuple[str, ...],
    limit: int,
    before: int | None,
    side: Any,
    ranked: bool,
    **filters: Any,
) -> None:
    """Search all prompts and replies, Chinese and English.

    All words must be there; "quotes" make a phrase, begin* takes every ending, -word excludes (write -- before it).
    """
    with open_ledger(db) as ledger:
        hits = ledger.search(" ".join(query), limit=limit, before=before, side=side, ranked=ranked, **filters)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for hit in hits:
        text, shift = hit.snippet, 0
        for start, end in hit.matches:
            text = text[: start + shift] + "«" + text[start + shift : end + shift] + "»" + text[end + shift :]
            shift += 2
        head = f"{hit.seq:>7} {when(hit.created_us)} {plain(hit.turn)} {hit.side:<6} "
        click.echo(head + plain(" ".join(text.split())))
    if len(hits) == limit and not ranked:
        say(f"more: --before {hits[-1].seq}")
    if not hits:
        say("nothing was found")


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size((120, 24)).columns


COMMANDS = (list_turns, show, search)
