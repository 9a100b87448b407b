"""`pellucid bench`: figures of this installation on this machine, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from assistant.cli.common import Progress, echo_json, json_option, load_settings, model_option
from assistant.errors import UsageError
from assistant.settings import Settings


@click.group()
def bench() -> None:
    """Measure this installation on this machine. Close other programs first; every figure is a median of several runs."""


def _model(settings: Settings) -> Any:
    from assistant.loading import model_file

    progress = Progress()
    try:
        return model_file(settings.model, progress)[0]
    finally:
        progress.done()


rounds_option = click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="How often to measure.")


@bench.command()
@click.option("--peer", "peers", multiple=True, help="llama.cpp or transformers, when installed; measured in turn with ours.")
@click.option("--dtype", help="auto, float32, bfloat16, float16, int8, int4, int4+bfloat16.")
@click.option("--speculation", is_flag=True, help="Replies with and without guessed tokens as well.")
@click.option("--busy-core", "busy", is_flag=True, help="Once more while another program has one core.")
@rounds_option
@model_option
@json_option
def engine(peers: tuple[str, ...], dtype: str | None, speculation: bool, busy: bool, rounds: int, model: str | None, as_json: bool) -> None:
    """Reading and writing speed, load time, memory and energy of the engine."""
    settings = load_settings(model=model, dtype=dtype)
    path = _model(settings)
    from assistant.benchmarks.engine import bench as run

    show(run(settings, path, peers, rounds, busy=busy, speculation=speculation), as_json)


@bench.command()
@click.option("--length", "lengths", type=click.IntRange(2, 1_000_000), multiple=True, help="Tokens of a prompt; 1024, 4096 and 8000 else.")
@model_option
@json_option
def context(lengths: tuple[int, ...], model: str | None, as_json: bool) -> None:
    """What a longer context costs: to read it, to write on from its end, to keep it."""
    settings = load_settings(model=model)
    path = _model(settings)
    from assistant.benchmarks.contexts import LENGTHS
    from assistant.benchmarks.contexts import bench as run

    show(_told(lambda progress: run(settings, path, lengths or LENGTHS, progress=progress)), as_json)


@bench.command()
@click.option("--tokens", type=click.IntRange(2, 100_000), default=384, show_default=True, help="How much text to compare on.")
@model_option
@json_option
def quality(tokens: int, model: str | None, as_json: bool) -> None:
    """How far each dtype is from float32: mean and 99th percentile of the divergence, agreement on the likeliest token."""
    settings = load_settings(model=model)
    path = _model(settings)
    from assistant.benchmarks.dtypes import quality as run

    show(_told(lambda progress: run(settings, path, tokens=tokens, progress=progress)), as_json)


@bench.command()
@rounds_option
@model_option
@json_option
def energy(rounds: int, model: str | None, as_json: bool) -> None:
    """Joules a token and tokens a second of each dtype, and whether the joules are measured or estimated."""
    settings = load_settings(model=model)
    path = _model(settings)
    from assistant.benchmarks.dtypes import energy as run

    show(_told(lambda progress: run(settings, path, rounds, progress=progress)), as_json)


def _told(action: Callable[[Progress], dict[str, Any]]) -> dict[str, Any]:
    """The result of `action`, which says on stderr what it is doing."""
    progress = Progress()
    try:
        return action(progress)
    finally:
        progress.done()


@bench.command()
@rounds_option
@json_option
def startup(rounds: int, as_json: bool) -> None:
    """Seconds to the first answer, to the first paint, and to the loaded model."""
    _model(load_settings())
    from assistant.benchmarks.startup import bench as run

    show(run(rounds), as_json)


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 1000), default=20, show_default=True, help="How often to measure.")
@json_option
def safety(rounds: int, as_json: bool) -> None:
    """Milliseconds of the prompt filter and of streaming moderation."""
    from assistant.benchmarks.safety import bench as run

    show(run(load_settings(), rounds), as_json)


@bench.command()
@rounds_option
@model_option
@json_option
def explain(rounds: int, model: str | None, as_json: bool) -> None:
    """Seconds of one explanation, by method."""
    settings = load_settings(model=model)
    path = _model(settings)
    from assistant.benchmarks.explain import bench as run

    show(run(settings, path, rounds), as_json)


@bench.command()
@click.option("--turns", type=click.IntRange(1000, 10_000_000), default=20_000, show_default=True, help="How large a log.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Where the throw-away log lies: its disk is measured.")
@json_option
def audit(turns: int, folder: str | None, as_json: bool) -> None:
    """How fast the log writes, verifies, searches and opens, against its goals."""
    from pathlib import Path

    from assistant.audit import bench as measure

    figures = _told(lambda progress: measure.bench(turns, folder=Path(folder) if folder else None, say=progress))
    if as_json:
        echo_json(figures)
    else:
        click.echo("\n".join(measure.table(figures)))


@bench.command()
@click.option("--turns", type=click.IntRange(10, 100_000), default=500, show_default=True, help="How long the memory test talks.")
@json_option
def tui(turns: int, as_json: bool) -> None:
    """What the terminal application costs and how soon it answers, against its goals."""
    from assistant.benchmarks import tui as measure

    figures = measure.bench(turns)
    if as_json:
        echo_json({name: {"value": value, "goal": measure.GOALS.get(name, (None,))[0]} for name, value in figures.items()})
    else:
        click.echo("\n".join(measure.table(figures)))


@bench.command()
@click.option("--peer", is_flag=True, help="In turn with transformers training the same model, when it is installed.")
@click.option("--width", type=int, default=192, show_default=True)
@click.option("--layers", type=int, default=4, show_default=True)
@click.option("--heads", type=int, default=3, show_default=True)
@click.option("--batch", type=int, default=24, show_default=True)
@click.option("--context", type=int, default=64, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps of a round.")
@click.option("--compile", "compiled", is_flag=True, help="Compile ours first.")
@rounds_option
@json_option
def train(
    peer: bool, width: int, layers: int, heads: int, batch: int, context: int, steps: int, compiled: bool, rounds: int, as_json: bool
) -> None:
    """Tokens a second, memory and energy of training a Transformer."""
    from dataclasses import replace

    from assistant.benchmarks import train as measure
    from assistant.cli.train import prepare
    from assistant.lm.engine import pick_device

    settings = load_settings()
    prepare("cpu", settings.threads, pick_device)
    sizes = replace(measure.SIZES, width=width, layers=layers, heads=heads)
    plan = replace(measure.PLAN, batch=batch, context=context)
    show(measure.bench(sizes, plan, rounds, steps, peer=peer, compiled=compiled, watts=settings.watts_per_core), as_json)


@bench.command()
@click.option("--streams", type=click.IntRange(1, 1000), default=32, show_default=True, help="How many replies at once.")
@click.option("--words", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How long each reply is.")
@click.option("--pace", type=float, default=0.05, show_default=True, help="Seconds between two words of a reply.")
@click.option("--requests", type=click.IntRange(0, 1_000_000), default=1000, show_default=True, help="With faults; 0 leaves them out.")
@click.option("--faults", "share", type=click.FloatRange(0, 0.9), default=0.2, show_default=True, help="The share of answers that fail.")
@click.option("--guard", type=click.Choice(["full", "ngrams"]), default="full", show_default=True, help="The guard that is measured.")
@click.option("--senseless", is_flag=True, help="Replies of words without sense, which the guard reads at every step: the worst case.")
@rounds_option
@json_option
def served(
    streams: int, words: int, pace: float, requests: int, share: float, guard: str, senseless: bool, rounds: int, as_json: bool
) -> None:
    """What serve-api adds to a served model, and whether faults lose turns, against their goals."""
    try:
        from assistant.benchmarks import served as measure
    except ImportError as error:
        raise UsageError("this needs extras: pip install 'pellucid[served,api]'") from error

    result: dict[str, Any] = {
        "goals": measure.GOALS,
        "overhead": measure.overhead(streams, words, pace, rounds, guard, senseless=senseless),
    }
    if requests:
        result["faults"] = measure.faults(requests, share)
    show(result, as_json)


@bench.command()
@click.option("--rows", type=click.IntRange(200, 10_000_000), default=6000, show_default=True, help="How many texts are judged.")
@rounds_option
@json_option
def cluster(rows: int, rounds: int, as_json: bool) -> None:
    """How much faster two workers of a Ray cluster on this machine judge texts than one, and what a killed worker changes."""
    from assistant.benchmarks import cluster as measure

    show({"goals": measure.GOALS, **measure.bench(load_settings(), rows, rounds)}, as_json)


def show(result: dict[str, Any], as_json: bool) -> None:
    """The figures on stdout: one line each, or one JSON object."""
    if as_json:
        echo_json(result)
    else:
        for line in table(result):
            click.echo(line)


def table(result: dict[str, Any], indent: str = "") -> list[str]:
    """Nested figures as lines; a summary becomes `median (low … high)`."""
    lines = []
    for name, value in result.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict) and set(value) == {"median", "low", "high", "runs"}:
            lines.append(f"{label:44} {value['median']:.4g}  ({value['low']:.4g} … {value['high']:.4g}, {value['runs']:.0f} runs)")
        elif isinstance(value, dict):
            lines += [label, *table(value, indent + "  ")]
        else:
            lines.append(f"{label:44} {value:.4g}" if isinstance(value, float) else f"{label:44} {value}")
    return lines
