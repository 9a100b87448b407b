"""`pellucid evaluate lm` and `architectures`: language models side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from assistant.cli.common import Progress, echo_json, json_option, load_settings
from assistant.cli.main import say
from assistant.errors import UsageError
from assistant.tui.sanitize import sanitize

PROMPTS = ("今天天气", "The weather is", "你好，", "I would like to")


@click.command("lm")
@click.argument("models", nargs=-1, required=True)
@click.option("--text", type=click.Path(path_type=Path), required=True, help="What they are judged by; none should have learnt from it.")
@click.option("--encoding", default="utf-8", show_default=True)
@click.option("--tokens", type=click.IntRange(min=2), default=20_000, show_default=True, help="Only so much of the text.")
@click.option("--window", type=click.IntRange(min=8), help="Tokens read at once (default: the smallest context of the models).")
@click.option("--prompt", "prompts", multiple=True, help="Continued by each (may be given several times).")
@click.option("--device", help="auto, cpu, cuda, mps.")
@json_option
def lm(
    models: tuple[str, ...], text: Path, encoding: str, tokens: int, window: int | None, prompts: tuple[str, ...], device: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Perplexity, next-token accuracy and distinct-n of MODELS (names, files or folders) on a text, with samples side by side."""
    from assistant.training import corpus, evaluation

    content = corpus.decode(text, encoding)
    if not content.strip():
        raise UsageError(f"{text.name} is empty: give a file with text")
    settings, progress = load_settings(device=device), Progress()
    try:
        loaded = [evaluation.load(name, settings, progress) for name in models]
        size = window or min(m.context for m in loaded)
        chosen = prompts or PROMPTS
        figures = [evaluation.judge(m, content, chosen, limit=tokens, window=size, progress=progress) for m in loaded]
    finally:
        progress.done()
    if as_json:
        echo_json([asdict(f) for f in figures])
    else:
        for line in evaluation.table(figures, chosen):
            click.echo(sanitize(line))


@click.command()
@click.option("--preset", default="tiny-zh-en", show_default=True)
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recipe of your own instead (TOML).")
@click.option("--steps", type=int, help="How many steps each takes.")
@click.option("--rate", "rates", type=float, multiple=True, help="Try this learning rate with each of them first (several times).")
@click.option("--trial", type=click.IntRange(min=1), default=200, show_default=True, help="Steps to try a --rate for.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Where the models are stored.")
@click.option("--threads", type=int, help="Processor threads; 0 takes all.")
@json_option
def architectures(
    preset: str, config: Path | None, steps: int | None, rates: tuple[float, ...], trial: int, output: Path, threads: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Train a Transformer and an LSTM of as many parameters on the same tokens in the same order, and compare them.

    With --rate, each architecture gets the one of these rates that is best for it.
    """
    from assistant.cli.train import prepare
    from assistant.cli.training_view import View
    from assistant.lm.engine import pick_device
    from assistant.training import evaluation, recipe

    chosen = recipe.read(config or recipe.preset(preset), {"steps": steps})

    def show(run: Any) -> Any:
        return View(run).show

    result = evaluation.architectures(chosen, output, prepare("auto", threads, pick_device), say, show, rates=rates, trial=trial)
    if as_json:
        echo_json(result)
        return
    rows = {name.replace("_", " "): [_cell(row[name]) for row in result.values()] for name in next(iter(result.values()))}
    width = max(16, *(len(cell) + 2 for cells in rows.values() for cell in cells))
    click.echo(f"{'':<28}" + "".join(f"{name:>{width}}" for name in result))
    for title, cells in rows.items():
        click.echo(f"{title:<28}" + "".join(f"{cell:>{width}}" for cell in cells))


def _cell(value: dict[str, float] | float | int | None) -> str:
    if isinstance(value, dict):
        return " ".join(f"{rate}: {perplexity:.4g}" for rate, perplexity in value.items()) or "-"
    return "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
