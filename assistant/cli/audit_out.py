"""`audit export`: the log for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from assistant.cli.audit_common import database_options, open_ledger, progress_bar, say


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["jsonl"]), default="jsonl", show_default=True, help="The form of the export."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write (0600); stdout when not given.")
@database_options
def export(db: Path | None, as_json: bool, form: str, output: Path | None) -> None:
    """Write the whole log out. An existing file is replaced only when everything was written."""
    from assistant.audit.export.jsonl import lines
    from assistant.audit.export.target import writing

    with open_ledger(db) as ledger:
        if output is None:
            for line in lines(ledger):
                click.echo(line, nl=False)
            return
        with writing(output) as file:
            for line in lines(ledger, progress_bar("exporting")):
                file.write(line)
    say(f"written: {output}")


COMMANDS = (export,)
