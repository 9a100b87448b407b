"""`pellucid config`: where the settings come from, what they are, and changing one. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict

import click

from assistant import paths
from assistant import settings as configuration
from assistant.cli.common import echo_json, json_option
from assistant.tui.sanitize import sanitize


@click.group()
def config() -> None:
    """Show and change the settings."""


@config.command()
@json_option
def show(as_json: bool) -> None:
    """All settings in force."""
    values = asdict(configuration.load())
    if as_json:
        echo_json(values)
        return
    texts = configuration.field_help()
    for name, value in values.items():
        click.echo(sanitize(f"{name} = {value!r:30} # {texts[name]}"))


@config.command()
@click.argument("name")
def get(name: str) -> None:
    """The value of one setting."""
    configuration.convert(name, getattr(configuration.Settings(), name, None), "config get")
    click.echo(sanitize(str(getattr(configuration.load(), name))))


@config.command("set", context_settings={"ignore_unknown_options": True})  # negative numbers are values
@click.argument("name")
@click.argument("value")
def set_value(name: str, value: str) -> None:
    """Change one setting in the configuration file; comments stay."""
    from assistant.tui.config_file import save

    converted = configuration.convert(name, value, "config set")
    configuration.load({name: converted})  # refuses impossible values before anything is written
    save(paths.config_file(), {name: converted})


@config.command()
def validate() -> None:
    """Check the configuration file and the environment."""
    configuration.load()
    click.echo(f"{paths.config_file()}: ok")


@config.command("paths")
@json_option
def show_paths(as_json: bool) -> None:
    """Where everything is kept."""
    places = {
        "config": str(paths.config_file()), "database": str(configuration.load().database_path), "models": str(paths.models_dir()),
        "data": str(paths.data_dir()), "cache": str(paths.cache_dir()), "state": str(paths.state_dir()),
    }  # fmt: skip
    if as_json:
        echo_json(places)
        return
    for name, place in places.items():
        click.echo(f"{name:9} {place}")
