"""`audit verify`: is the log still what was written?"""

from __future__ import annotations

from pathlib import Path

import click

from assistant.cli.audit_common import database_options, open_ledger, plain, print_json, progress_bar, say


@click.command()
@click.option("--content/--no-content", default=True, help="Also compare every text with its commitment.")
@database_options
@click.pass_context
def verify(ctx: click.Context, db: Path | None, as_json: bool, content: bool) -> None:
    """Recompute every hash of the log and say what is not as it was written, and where."""
    from assistant.audit.verify import verify as run

    with open_ledger(db) as ledger:
        report = run(ledger, contents=content, progress=progress_bar("verifying"))
    if as_json:
        print_json(report.to_dict())
    else:
        for problem in report.problems:
            at = f"record {problem.seq}: " if problem.seq is not None else ""
            click.echo(plain(f"{problem.where}: {at}{problem.message}"))
        if report.left_out:
            click.echo(f"… and {report.left_out} more")
        erased = f", erased ({report.erased})" if report.erased else ""
        click.echo(
            f"{report.outcome}: {report.size} records, {report.turns} turns, {report.contents} texts{erased}, "
            f"{report.checkpoints} checkpoints, root {report.root[:16]}"
        )
    if report.exit_code == 1:
        say("nothing that was logged is affected; `pellucid audit doctor --repair` mends it")
    ctx.exit(report.exit_code)


COMMANDS = (verify,)
