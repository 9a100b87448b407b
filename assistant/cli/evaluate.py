"""`pellucid evaluate`: how good is what this program says of a model?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from assistant.cli.common import Progress, echo_json, json_option, load_settings, model_option
from assistant.errors import UsageError


@click.group()
def evaluate() -> None:
    """Measure quality on data: how faithful explanations are."""


@evaluate.command()
@click.option("--prompts", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="One prompt a line, named LANGUAGE in prompts.LANGUAGE.txt (default: the shipped ones).")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Only so many prompts of each file.")
@model_option
@json_option
def explain(files: tuple[Path, ...], limit: int | None, model: str | None, as_json: bool) -> None:
    """How faithful each method of explaining is on this model: LDS with confidence intervals, and what the top words are worth."""
    from safety.resources import data_path

    chosen = files or (data_path("explain", "prompts.en.txt"), data_path("explain", "prompts.zh.txt"))
    engine, progress = load_engine(model)
    from assistant.benchmarks.faithfulness import evaluate as run
    from assistant.benchmarks.faithfulness import read_prompts
    from assistant.explaining import coefficients

    try:
        prompts = {file.stem.removeprefix("prompts."): read_prompts(file)[:limit] for file in chosen}
        if not any(prompts.values()):
            raise UsageError("the files hold no prompt: give one a line")
        result = run(engine, prompts, coefficients(engine), progress)
    finally:
        progress.done()
    if as_json:
        echo_json(result)
        return
    click.echo(f"{result['model']} ({result['dtype']}), prompts: {result['prompts']}")
    click.echo(f"{'method':<22}{'LDS':>7}{'95 % interval':>18}{'drop@3':>9}{'seconds':>9}")
    for method, row in sorted(result["methods"].items(), key=lambda item: -item[1]["lds"]):
        low, high = row["lds_95"]
        seconds = f"{row['seconds']:.2f}" if "seconds" in row else ""
        click.echo(f"{method:<22}{row['lds']:>7.3f}{f'{low:.3f} … {high:.3f}':>18}{row['drop_top3_nats']:>9.2f}{seconds:>9}")


def load_engine(model: str | None) -> tuple[Any, Progress]:
    """The model and the progress line that showed it loading."""
    from assistant.loading import load_engine as load

    progress = Progress()
    return load(load_settings(model=model), progress), progress
