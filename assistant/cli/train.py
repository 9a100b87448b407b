"""`pellucid train`: text files to a small language model of one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assistant.cli.common import F, db_option, echo_json, json_option, load_settings
from assistant.cli.main import say
from assistant.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from assistant.training.runs import Work


def _number(name: str, kind: Any, text: str) -> Any:
    return click.option(f"--{name}", type=kind, help=text)


_SIZES = [
    click.option("--arch", type=click.Choice(["transformer", "lstm"]), help="What is trained; lstm is the recurrent baseline."),
    _number("width", int, "Size of the embedding and the residual stream."),
    _number("layers", int, "How many blocks."),
    _number("heads", int, "Query heads of a block."),
    _number("kv-heads", int, "Key-value heads; 0 takes as many as heads."),
    _number("ffn", int, "Width of the feed-forward network; 0 takes 8/3 of the width."),
    _number("hidden", int, "State of an LSTM; 0 gives it as many parameters as the Transformer of these sizes."),
    _number("vocabulary", int, "Tokens of the vocabulary that is trained."),
    click.option("--tokenizer", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Use this tokenizer.json instead."),
]
_NUMBERS = [
    _number("steps", int, "How many steps are taken."),
    _number("batch", int, "Windows a step."),
    _number("context", int, "Tokens a window; the context of the model."),
    _number("accumulate", int, "Read a batch in so many rounds."),
    click.option("--optimizer", type=click.Choice(["adamw", "adam"])),
    _number("rate", float, "The highest learning rate."),
    _number("warmup", int, "Steps until it is reached; then it falls along a cosine."),
    _number("weight-decay", float, "Of matrices."),
    _number("clip", float, "The longest gradient."),
    _number("seed", int, "Of weights and order."),
    click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), help="bfloat16 is autocast; auto where CUDA has it."),
    _number("evaluate-every", int, "Steps between tests."),
    _number("sample-every", int, "Steps between samples."),
    _number("save-every", int, "Steps between checkpoints."),
]


def options(group: list[Any]) -> Callable[[F], F]:
    """A decorator for several options."""

    def decorate(command: F) -> F:
        for option in reversed(group):
            command = option(command)
        return command

    return decorate


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The folder for the model; a run that was cut goes on there."
)
@click.option("--preset", metavar="NAME", help="A shipped recipe with its text: tiny-zh-en.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recipe of your own (TOML).")
@options(_SIZES)
@options(_NUMBERS)
@click.option("--validation", type=float, help="The part of the documents that is only tested on.")
@click.option("--prompt", "prompts", multiple=True, help="Continue this text now and then (may be given several times).")
@click.option("--language", "languages", multiple=True, help="What the model will speak, for its folder.")
@click.option(
    "--split", type=click.Choice(["paragraph", "line", "file"]), default="paragraph", show_default=True, help="A document of FILES."
)
@click.option("--encoding", default="utf-8", show_default=True, help="Of FILES.")
@click.option("--licence", default="", help="Of FILES, for the model's card.")
@click.option("--keep-duplicates", is_flag=True, help="Learn from what is there twice, too.")
@click.option("--keep-personal-data", is_flag=True, help="Do not replace personal data and secrets.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=int, help="Processor threads; 0 takes all.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the model first (needs a C++ compiler; pays off in long runs).")
@click.option("--no-log", is_flag=True, help="Do not note the run in the log.")
@db_option
@json_option
def train(
    files: tuple[Path, ...], output: Path, preset: str | None, config: Path | None, split: Any, encoding: str, licence: str,
    keep_duplicates: bool, keep_personal_data: bool, device: str, threads: int | None, compiled: bool, no_log: bool, as_json: bool,
    db: str | None,
    prompts: tuple[str, ...], languages: tuple[str, ...], **given: Any,
) -> None:  # fmt: skip
    """Train a language model on FILES (text, or JSONL with text or messages) and store it in a folder.

    `pellucid --model DIR` uses it. The same command goes on where a run was cut, bit for bit. Several devices or machines:
    torchrun --nproc-per-node N -m assistant.cli train …
    """
    if preset and config:
        raise UsageError("--preset and --config cannot both be given: choose one")
    from assistant.lm.engine import pick_device
    from assistant.training import recipe as recipes
    from assistant.training.corpus import Source
    from assistant.training.runs import Run, check_compiler

    sources = tuple(Source(path, split=split, encoding=encoding, licence=licence) for path in files)
    given |= {"prompts": prompts or None, "languages": languages or None}
    given |= {"deduplicate": False if keep_duplicates else None, "scrub": False if keep_personal_data else None}
    recipe = recipes.read(recipes.preset(preset) if preset else config, given, sources)
    if compiled:
        check_compiler()
    settings = load_settings()
    target = prepare(device, threads, pick_device)
    run = Run(recipe, output, device=target, compiled=compiled, watts=settings.watts_per_core, say=say)
    finish(run, as_json, log=not no_log, db=db)


def prepare(device: str, threads: int | None, pick: Any) -> Any:
    """The device, with torch's threads set."""
    import torch

    from assistant.lm.threads import available_cores

    torch.set_num_threads(threads or available_cores())
    return pick(device)


def finish(run: Work, as_json: bool, *, log: bool, db: str | None = None) -> None:
    """Show a run, keep it when it is interrupted, store what came out, note it in the log."""
    from assistant.cli.training_view import View
    from assistant.lm import spread
    from assistant.training import plot

    view = View(run, quiet=not spread.first())
    if not view.quiet:
        say(f"{run.parameters:,} parameters, {run.tokens:,} tokens, {run.plan.steps} steps")
    try:
        for event in run.events():
            view.show(event)
    except KeyboardInterrupt:
        view.done()
        run.keep()
        say(f"interrupted after step {run.trainer.step}; the same command goes on from there")
        sys.exit(130)
    finally:
        view.done()
    card = run.finish()
    if spread.first():
        if log:
            note(run.command, card, db)
        if as_json:
            echo_json(card)
        else:
            for line in plot.terminal(run.trainer.losses, run.trainer.validations):
                click.echo(line)
            say(f"stored in {run.output}: {run.hint}")
    spread.end()


def note(command: str, card: dict[str, Any], db: str | None = None) -> None:
    """Log that a model was made, with its card; a log that cannot be written does not cost the model."""
    import json

    from assistant.cli.common import open_ledger

    fields = {
        "command": command,
        "model": card["name"],
        "corpus": card["corpus_sha256"],
        "weights": card["weights_sha256"],
    }
    try:
        with open_ledger(load_settings(db)) as ledger:
            ledger.record_event("training", fields, content={"card": json.dumps(card, ensure_ascii=False)})
    except LedgerError as error:
        say(f"the run is not noted in the log: {error}")
