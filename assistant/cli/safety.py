"""`pellucid safety`: train the classifier from data files, evaluate the guard on labelled texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from assistant.cli.common import echo_json, existing, json_option, load_settings
from assistant.cli.main import say
from assistant.errors import UsageError

CONTRAST = ("contrast.zh.jsonl", "contrast.en.jsonl")


@click.group()
def safety() -> None:
    """Train and evaluate the safety classifier."""


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--dev", multiple=True, metavar="FILE", help="More labelled texts for calibration, never trained on.")
@click.option("--output", required=True, metavar="FILE", help="Where the weights go (.npz).")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def train(data: tuple[str, ...], dev: tuple[str, ...], output: str, seed: int, as_json: bool) -> None:
    """Train the classifier on DATA (.jsonl or .jsonl.gz, see data/safety/MODEL_CARD.md) and the project's own contrast pairs."""
    from safety.resources import data_path
    from safety.train import train as run

    files = [existing(f) for f in data]
    report = run(
        files,
        Path(output),
        seed,
        dev=[existing(f) for f in dev],
        extra=[data_path("safety", name) for name in CONTRAST],
        say=lambda line: say(line),
    )
    if as_json:
        echo_json(report)
    else:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--policy", help="The safety policy: strict, balanced, open.")
@json_option
def evaluate(data: tuple[str, ...], policy: str | None, as_json: bool) -> None:
    """F1, AUPRC, recall at 1 % false positives, calibration error and speed of the guard on labelled texts, zh and en apart.

    DATA: .jsonl(.gz) with text, label (safe or unsafe), role, lang; or a public benchmark in its published format.
    """
    from dataclasses import asdict
    from itertools import chain

    from assistant.loading import load_guard
    from safety.evaluate import evaluate as run
    from safety.evaluate import read_benchmark, report

    guard = load_guard(load_settings(policy=policy), lambda what, fraction: None)
    try:
        figures = run(chain.from_iterable(read_benchmark(existing(f)) for f in data), guard)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if as_json:
        echo_json([asdict(f) for f in figures])
    else:
        click.echo(report(figures))


@safety.group()
def rules() -> None:
    """Work on the rules."""


@rules.command("test")
@click.argument("files", nargs=-1)
def test_rules(files: tuple[str, ...]) -> None:
    """Run the examples of every rule (of FILES, or of the shipped rules); exit code 1 when one does not hold."""
    from safety.resources import data_path
    from safety.rule_examples import failures
    from safety.rules import RuleError, load_rules

    chosen = [existing(f) for f in files] or sorted(data_path("safety").glob("rules.*.toml"))
    try:
        loaded = load_rules(chosen)
    except RuleError as error:
        raise UsageError(str(error)) from error
    wrong = list(failures(loaded))
    for line in wrong:
        click.echo(line)
    say(f"{len(wrong)} examples do not hold" if wrong else f"all examples of {len(loaded)} rules hold")
    sys.exit(1 if wrong else 0)
