"""`audit doctor` and `backup`: keeping the log healthy."""

from __future__ import annotations

from pathlib import Path

import click

from assistant.cli.audit_common import database_options, log_export_option, note_export, open_ledger, plain, print_json, say


@click.command()
@click.option("--repair", is_flag=True, help="Close open turns, rebuild what only repeats the records, tidy the file.")
@database_options
@click.pass_context
def doctor(ctx: click.Context, db: Path | None, as_json: bool, repair: bool) -> None:
    """Look at the log as a file: modes, journal, structure, turns left open. `verify` is what looks at its truth.

    Exit code 1 when something should be done.
    """
    from assistant.audit import doctor as surgery

    if repair:
        with open_ledger(db):
            pass  # nothing is made where there is no log
        with open_ledger(db, write=True) as ledger:
            for message in surgery.repair(ledger):
                say(message)
    with open_ledger(db) as ledger:
        checks = surgery.examine(ledger)
    if as_json:
        print_json([check.to_dict() for check in checks])
    else:
        for check in checks:
            click.echo(plain(f"{check.state:<8} {check.name}: {check.message}"))
    ctx.exit(int(any(check.state == "problem" for check in checks)))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@log_export_option
@database_options
def backup(db: Path | None, as_json: bool, file: Path, log_export: bool) -> None:
    """Copy the log to FILE while the chat goes on. The copy is complete, checked, and readable by you alone."""
    from assistant.audit.doctor import backup as run

    note_export(db, "backup", log_export, texts=True)
    with open_ledger(db) as ledger:
        size = run(ledger, file)
    print_json({"written": str(file), "bytes": size}) if as_json else say(f"written: {file} ({size} bytes)")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@database_options
def encrypt(db: Path | None, as_json: bool, file: Path) -> None:
    """Make an encrypted copy of the log in FILE, with the passphrase in PELLUCID_LEDGER_KEY (needs the extra `encrypt`).

    From then on set that variable whenever the copy is used. Remove the plain log yourself once the copy verifies.
    """
    from dataclasses import asdict

    from assistant import settings
    from assistant.audit.importing import encrypted_copy

    result = encrypted_copy(db or settings.load().database_path, file)
    print_json(asdict(result)) if as_json else say(f"written: {file} ({result.size} records, root {result.root[:16]})")


COMMANDS = (doctor, backup, encrypt)
