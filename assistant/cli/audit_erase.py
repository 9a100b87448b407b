"""`audit redact` and `retention`: erasing what was said, while the record that something was said remains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from assistant.cli.audit_common import TIME, database_options, open_ledger, plain, print_json, say
from assistant.errors import UsageError

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would be erased.")
_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("turns", nargs=-1)
@click.option("--conversation", help="Every turn of this conversation, and its titles.")
@click.option("--user", help="Every turn written under this login name.")
@click.option("--match", "pattern", help="Every turn whose prompt or reply matches this regular expression.")
@click.option("--rule", help="Every turn in which this safety rule found something, as pii.phone.")
@click.option("--reason", default="", help="Why; it stays in the log for ever, so name nobody.")
@_DRY_RUN
@_YES
@database_options
def redact(
    db: Path | None,
    as_json: bool,
    turns: tuple[str, ...],
    conversation: str | None,
    user: str | None,
    pattern: str | None,
    rule: str | None,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Erase turns for good: texts, tokens, explanations, and every byte of them in the file.

    That the turns took place, their verdicts and their cost stay, and `verify` says how many texts were erased.
    """
    from assistant.audit import selection

    if not (turns or conversation or user or pattern or rule):
        raise UsageError("say what to erase: a turn, --conversation, --user, --match or --rule")
    with open_ledger(db, write=not dry_run) as ledger:
        ids = dict.fromkeys(selection.by_turn(ledger, turns))
        if conversation:
            ids |= dict.fromkeys(selection.by_conversation(ledger, conversation))
        if user:
            ids |= dict.fromkeys(selection.by_user(ledger, user))
        if pattern:
            ids |= dict.fromkeys(selection.by_pattern(ledger, pattern))
        if rule:
            ids |= dict.fromkeys(selection.by_rule(ledger, rule))
        chosen = selection.select(ledger, list(ids), conversation)
        _erase(ledger, chosen, reason or "redact", dry_run, yes, as_json)


@click.command()
@click.option("--older-than", type=TIME, required=True, help="An age like 180d, or a date.")
@click.option("--keep", type=click.Choice(["flagged", "reviewed"]), multiple=True, help="Spare these turns.")
@_DRY_RUN
@_YES
@database_options
def retention(db: Path | None, as_json: bool, older_than: int, keep: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Erase all turns older than a time, as `redact` does."""
    from assistant.audit import selection

    with open_ledger(db, write=not dry_run) as ledger:
        chosen = selection.select(ledger, selection.by_age(ledger, older_than, keep))
        _erase(ledger, chosen, "retention", dry_run, yes, as_json)


def _erase(ledger: Any, chosen: Any, reason: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    from assistant.audit.redact import redact as run

    result = {"turns": chosen.turns, "parts": len(chosen.targets), "erased": False}
    if chosen.targets and not dry_run:
        if not yes:
            click.confirm(f"Erase {len(chosen.turns)} turns ({len(chosen.targets)} parts) for good?", abort=True, err=True)
        erasure = run(ledger, chosen, reason)
        result |= {"erased": True, "records": erasure.records, "rewritten": erasure.rewritten}
    if as_json:
        print_json(result)
        return
    for turn in chosen.turns:
        click.echo(plain(turn))
    verb = "erased" if result["erased"] else "to erase"
    say(f"{verb}: {len(chosen.turns)} turns, {len(chosen.targets)} parts")


COMMANDS = (redact, retention)
