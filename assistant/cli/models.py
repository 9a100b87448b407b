"""`pellucid models`: the catalogue and what has been fetched of it. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assistant import paths
from assistant.cli.common import Progress, echo_json, json_option
from assistant.cli.export import export
from assistant.cli.main import say
from assistant.errors import ModelError
from assistant.lm import catalog, hub, pull
from assistant.tui.sanitize import sanitize

if TYPE_CHECKING:
    from assistant.lm.source import Source


@click.group()
def models() -> None:
    """List, fetch, inspect and remove models."""


models.add_command(export)


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """The models that Pellucid knows by name."""
    rows = [
        {
            "name": e.name, "fetched": e.path.exists(), "megabytes": round(e.size / 1e6), "languages": list(e.languages),
            "licence": e.licence, "description": e.description, "default": e.name == catalog.DEFAULT,
        }
        for e in (*catalog.CATALOG, catalog.GUARD_ENCODER)
    ]  # fmt: skip
    found = hub.fetched()
    if as_json:
        echo_json(rows + [{"name": name, "fetched": True, "path": str(place), "description": "from the hub"} for name, place in found])
        return
    for row, entry in zip(rows, (*catalog.CATALOG, catalog.GUARD_ENCODER), strict=True):
        mark = "●" if row["fetched"] else "○"
        default = " (default)" if row["default"] else ""
        click.echo(f"{mark} {entry.name:14} {row['megabytes']:>5} MB  {'/'.join(entry.languages):6} {entry.description}{default}")
    for name, place in found:
        megabytes = round(sum(file.stat().st_size for file in place.iterdir()) / 1e6)
        click.echo(sanitize(f"● {name}  {megabytes} MB, from the hub"))


@models.command("pull")
@click.argument("name", default=catalog.DEFAULT)
@click.option("--force", is_flag=True, help="Fetch again even when it is there.")
@click.option("--accept-terms", is_flag=True, help="You have read the terms of the model and accept them.")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit of a model of the hub.")
def pull_model(name: str, force: bool, accept_terms: bool, revision: str) -> None:
    """Fetch a model, check its hash and keep it in the model folder.

    NAME is one of `models list`, or ORGANISATION/NAME of the Hugging Face hub.
    """
    progress = Progress()
    if hub.is_name(name):
        try:
            place = hub.pull(name, progress, revision=revision, force=force)
        finally:
            progress.done()
        click.echo(str(place))
        return
    entry = catalog.find(name)
    if entry.terms and not accept_terms and (force or not entry.path.exists()) and sys.stdin.isatty():
        say(f"{entry.name} comes under terms of its own ({entry.licence}): {entry.terms}")
        accept_terms = click.confirm("Have you read them, and do you accept them?", err=True)
    try:
        path = pull.pull(entry, progress, force=force, accept_terms=accept_terms)
    finally:
        progress.done()
    click.echo(str(path))


@models.command()
@click.argument("name", default=catalog.DEFAULT)
@json_option
def info(name: str, as_json: bool) -> None:
    """What a model is: architecture, size, tokenizer, chat template, licence. NAME may be a .gguf file or a folder."""
    from assistant.lm.source import open_source

    entry = None if catalog.looks_like_path(name) else catalog.find(name)
    path = entry.path if entry else hub.folder(name) if hub.is_name(name) else Path(name).expanduser()
    if entry is catalog.GUARD_ENCODER:
        raise ModelError(f"{name} is the guard's encoder, not a chat model: see data/safety/MODEL_CARD.md")
    if not path.exists():
        known = entry or hub.is_name(name)
        raise ModelError(f"{name} has not been fetched: run `pellucid models pull {name}`" if known else f"there is no file {name}")
    source = open_source(path)
    about = source.facts()
    facts = {
        "name": entry.name if entry else (path.resolve().name if path.is_dir() else path.stem), "path": str(path),
        "bytes": about.pop("bytes"), "licence": entry.licence if entry else about["licence"], "sha256": source.sha256(),
        **_understood(source), **{k: v for k, v in about.items() if k != "licence"},
    }  # fmt: skip
    if as_json:
        echo_json(facts)
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for name_, content in value.items():
                click.echo(sanitize(f"  {name_}: {content}"))
        else:
            click.echo(sanitize(f"{key}: {value}"))


def _understood(source: Source) -> dict[str, object]:
    """How the engine would run it, or why it cannot."""
    from assistant.lm.chat_format import choose
    from assistant.lm.decode import suits

    try:
        config, tokenizer = source.config(), source.tokenizer()
    except ModelError as error:
        return {"usable": f"no: {error}"}
    try:
        chat = choose(source.chat_format, source.template, tokenizer, source.path.name).name
    except ModelError as error:
        chat = str(error)
    return {
        "usable": "yes",
        "context": config.context_length,
        "decoder": "one flat function" if suits(config) else "the general one, slower: this family has no flat function",
        "chat format": chat,
    }


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete a fetched model."""
    if not (hub.remove(name) if hub.is_name(name) else pull.remove(catalog.find(name))):
        say(f"{name} was not there")


@models.command()
@click.argument("name", required=False)
def path(name: str | None) -> None:
    """Where models are kept, or where the model NAME is."""
    if name and hub.is_name(name):
        click.echo(str(hub.folder(name)))
    else:
        click.echo(str(catalog.find(name).path if name else paths.models_dir()))
