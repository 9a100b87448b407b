"""`pellucid chat`: the terminal application."""

from __future__ import annotations

import gc
import os
import sys

import click

from assistant.cli.common import db_option, load_settings, model_options
from assistant.errors import UsageError
from assistant.tui.terminal import in_browser


@click.command()
@model_options
@db_option
@click.option("--conversation", metavar="ID", help="Open this conversation.")
@click.option("--plain", is_flag=True, help="Talk line by line: for screen readers, dumb terminals and pipes.")
@click.option("--lang", "language", type=click.Choice(["auto", "zh", "en"]), help="Language of the interface.")
def chat(conversation: str | None = None, db: str | None = None, plain: bool = False, **flags: str | None) -> None:
    """Talk to the model in the terminal application."""
    settings = load_settings(db, **flags)
    if plain:
        from assistant.cli.common import open_ledger
        from assistant.session import Session
        from assistant.tui.plain import run_plain

        with open_ledger(settings) as ledger:
            recovered = len(ledger.recover())
            sys.exit(run_plain(Session(settings, ledger), conversation=conversation, recovered=recovered))
    if not in_browser(os.environ) and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the terminal application needs a terminal: use `pellucid ask TEXT` in scripts and pipes")
    gc.disable()  # until the first paint: what is made by then lives as long as the program
    from assistant.tui.app import run

    sys.exit(run(settings, conversation=conversation))
