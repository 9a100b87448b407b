"""`audit export` and `import`: the log for other programs, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from assistant.cli.audit_common import (
    database_options,
    filter_options,
    log_export_option,
    note_export,
    open_ledger,
    plain,
    print_json,
    progress_bar,
    say,
)
from assistant.errors import UsageError


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv", "html", "otlp", "datasette"]), default="jsonl",
    show_default=True, help="jsonl is complete and verifiable; the others hold the turns.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write (0600); stdout when not given.")
@click.option("--with-content", is_flag=True, help="otlp: include prompts and replies, which are left out otherwise.")
@log_export_option
@filter_options
@database_options
def export(
    db: Path | None, as_json: bool, form: str, output: Path | None, with_content: bool, log_export: bool, **filters: Any
) -> None:  # fmt: skip
    """Write the log out. An existing file is replaced only when everything was written.

    That something was exported is noted in the log first. jsonl is the whole log with its hashes; beside the file goes a
    verifier that needs nothing but Python.
    """
    from assistant.audit.export import datasette, jsonl, otlp, page, table
    from assistant.audit.export.target import writing
    from assistant.store.ledger import Filter

    which = Filter(**filters)
    if form == "jsonl" and not which.is_empty:
        raise UsageError("jsonl is always the whole log, or it could not be verified: filter another format")
    if form == "datasette" and output is None:
        raise UsageError("a database cannot go to stdout: give a file with -o")
    note_export(db, form, log_export, which, texts=form != "otlp" or with_content)
    with open_ledger(db) as ledger:
        if form == "datasette":
            assert output is not None
            say(f"written: {output} ({datasette.write(ledger, output, which)} turns)")
            return
        lines: Iterator[str] = {
            "jsonl": lambda: jsonl.lines(ledger, progress_bar("exporting") if output else lambda done, total: None),
            "csv": lambda: table.lines(ledger, which),
            "html": lambda: page.lines(ledger, which),
            "otlp": lambda: otlp.lines(ledger, which, contents=with_content),
        }[form]()
        if output is None:
            for line in lines:
                click.echo(line, nl=False)
            return
        with writing(output) as file:
            file.writelines(lines)
    if form == "jsonl" and output.is_file():
        verifier = output.with_name(f"{output.stem}.verify.py")
        with writing(verifier) as file:
            file.write(jsonl.verifier_source())
        say(f"check it with: python {verifier} {output}")
    print_json({"written": str(output), "format": form}) if as_json else say(f"written: {output}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@database_options
def import_(db: Path | None, as_json: bool, file: Path) -> None:
    """Make a log from a jsonl export: all of it, with the same root, or nothing. `--db` names the new file.

    A record that says so follows the imported ones.
    """
    from dataclasses import asdict

    from assistant import settings
    from assistant.audit.events import note_import
    from assistant.audit.importing import import_jsonl

    path = db or settings.load().database_path
    result = import_jsonl(file, path, progress_bar("importing"))
    note_import(path, result.size, result.root)
    if as_json:
        print_json(asdict(result))
    else:
        click.echo(plain(f"{result.size} records, {result.contents} texts, erased ({result.erased}), root {result.root}"))


COMMANDS = (export, import_)
