"""`pellucid models export`: a model as one file that other programs read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from assistant.cli.common import Progress, load_settings, model_option
from assistant.cli.main import say
from assistant.errors import UsageError


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@model_option
def export(file: Path, model: str | None) -> None:
    """Write a model (a folder that was trained, an adapter on its base …) as FILE.gguf, which llama.cpp reads."""
    if file.suffix != ".gguf":
        raise UsageError(f"{file.name} must end in .gguf")
    if file.exists():
        raise UsageError(f"{file} is there already: choose another name")
    from assistant.lm.gguf_export import export as run
    from assistant.loading import load_engine

    progress = Progress()
    engine = load_engine(replace(load_settings(model=model), dtype="float32"), progress)
    progress.done()
    run(engine, file)
    say(f"written: {file}")
