"""`pellucid explain`: which words of the prompt a logged reply came from."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

import click

from assistant.cli.common import Progress, db_option, echo_json, load_settings, model_options, open_ledger
from assistant.errors import UsageError
from assistant.session import Session
from assistant.tui.sanitize import sanitize
from explain import render


@click.command()
@click.argument("turn", default="last")
@click.option("--token", type=int, metavar="N", help="Explain only token N of the reply (counted from 0).")
@click.option("--method", default="ablation", help="ablation (default) or integrated-gradients.")
@click.option("--level", default="auto", help="Size of the pieces: auto (default), token, word, sentence, turn.")
@click.option("--format", "style", type=click.Choice(["text", "json", "html"]), default="text", help="How to print it.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@model_options
@db_option
def explain(turn: str, token: int | None, method: str, level: str, style: str, as_json: bool, db: str | None, **flags: Any) -> None:
    """Explain the reply of TURN (an id of `pellucid audit list`, or `last`). The explanation is kept in the log."""
    settings = load_settings(db, **flags)
    with open_ledger(settings) as ledger:
        found = ledger.latest_turn() if turn == "last" else ledger.turn(turn)
        if found is None:
            raise UsageError("the log holds no turn yet: ask something first")
        if flags.get("model") is None:
            settings = _with_model_of(settings, found.model.name)
        progress = Progress()
        session = Session(settings, ledger)
        try:
            session.load_engine(progress)
            attribution = session.explain(found.id, method=method, token=token, level=level, progress=progress)
        finally:
            progress.done()
    if as_json or style == "json":
        echo_json(attribution.to_dict())
    elif style == "html":
        click.echo(render.html_page(attribution, f"Turn {found.id}"))
    else:
        safe = replace(
            attribution,
            input_tokens=tuple(sanitize(t) for t in attribution.input_tokens),
            output_tokens=tuple(sanitize(t) for t in attribution.output_tokens),
        )
        click.echo(render.terminal(safe, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))


def _with_model_of(settings: Any, name: str) -> Any:
    """The settings with the model that wrote the turn, when it is one of the catalogue."""
    from assistant.lm.catalog import CATALOG

    return replace(settings, model=name) if any(entry.name == name for entry in CATALOG) else settings
