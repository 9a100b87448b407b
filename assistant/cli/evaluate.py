"""`pellucid evaluate`: how good is a model, and what this program says of it?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from assistant.cli.cluster_options import cluster_options, wants_file, work_through
from assistant.cli.common import Progress, echo_json, json_option, load_settings, model_option
from assistant.cli.evaluate_lm import architectures, lm
from assistant.cli.evaluate_replies import replies
from assistant.errors import UsageError


@click.group()
def evaluate() -> None:
    """Measure quality on data: how faithful explanations are, how good a language model is."""


evaluate.add_command(lm)
evaluate.add_command(architectures)
evaluate.add_command(replies)


@evaluate.command()
@click.option("--prompts", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="One prompt a line, named LANGUAGE in prompts.LANGUAGE.txt (default: the shipped ones).")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Only so many prompts of each file.")
@click.option("--sanity", is_flag=True, help="Instead: does a model of shuffled weights get other explanations, as it should?")
@cluster_options
@model_option
@json_option
def explain(
    files: tuple[Path, ...], limit: int | None, sanity: bool, model: str | None, as_json: bool, output: Path | None, cluster: str | None,
    workers: int,
) -> None:  # fmt: skip
    """How faithful each method of explaining is on this model: LDS with confidence intervals, and what the top words are worth."""
    from safety.resources import data_path

    chosen = files or (data_path("explain", "prompts.en.txt"), data_path("explain", "prompts.zh.txt"))
    if wants_file(output, cluster):
        if sanity:
            raise UsageError("--sanity works in one process: leave --output and --cluster out")
        _shown(_faithfulness(chosen, limit, model, output, cluster, workers), as_json, sanity=False)
        return
    engine, progress = load_engine(model)
    from assistant.benchmarks.faithfulness import evaluate as run
    from assistant.benchmarks.faithfulness import randomised, read_prompts
    from assistant.explaining import coefficients

    try:
        prompts = {file.stem.removeprefix("prompts."): read_prompts(file)[:limit] for file in chosen}
        if not any(prompts.values()):
            raise UsageError("the files hold no prompt: give one a line")
        if sanity:
            result = randomised(engine, [text for texts in prompts.values() for text in texts], coefficients(engine), progress)
        else:
            result = run(engine, prompts, coefficients(engine), progress)
    finally:
        progress.done()
    _shown(result, as_json, sanity=sanity)


def _faithfulness(
    files: tuple[Path, ...], limit: int | None, model: str | None, output: Path | None, cluster: str | None, workers: int
) -> dict[str, Any]:
    """The same through a file of results, one prompt a line."""
    import hashlib

    from assistant.benchmarks.faithfulness import read_prompts, summary
    from assistant.cluster.jobs import Faithfulness
    from assistant.cluster.output import lines

    asked = [(file.stem.removeprefix("prompts."), text) for file in files for text in read_prompts(file)[:limit]]
    if not asked:
        raise UsageError("the files hold no prompt: give one a line")
    items = [(number, language, text) for number, (language, text) in enumerate(asked)]
    settings, source = load_settings(model=model), hashlib.sha256(repr(items).encode()).hexdigest()
    work_through(Faithfulness(settings), items, output, source=source, cluster=cluster, workers=workers, total=len(items), what="prompts")
    assert output is not None
    found = list(lines(output))
    return summary(found[0]["model"], found[0]["dtype"], found)


def _shown(result: dict[str, Any], as_json: bool, *, sanity: bool) -> None:
    if as_json:
        echo_json(result)
        return
    if sanity:
        for method, row in result["methods"].items():
            low, high = row["correlation_95"]
            click.echo(f"{method:<22}{row['correlation']:>+7.3f}{f'{low:+.3f} … {high:+.3f}':>20}")
        return
    click.echo(f"{result['model']} ({result['dtype']}), prompts: {result['prompts']}")
    click.echo(f"{'method':<24}{'LDS':>7}{'95 % interval':>18}{'drop@3':>9}{'seconds':>9}")
    for method, row in sorted(result["methods"].items(), key=lambda item: -item[1]["lds"]):
        low, high = row["lds_95"]
        seconds = f"{row['seconds']:.2f}" if "seconds" in row else ""
        click.echo(f"{method:<24}{row['lds']:>7.3f}{f'{low:.3f} … {high:.3f}':>18}{row['drop_top3_nats']:>9.2f}{seconds:>9}")


@evaluate.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tune",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Choose the thresholds on this file (default: half of FILE).",
)
@click.option("--set", "of", default="", metavar="NAME", help="Only the lines of this set, also those in which nothing is marked.")
@click.option("--by", type=click.Choice(["marks", "weights"]), default="marks", show_default=True,
              help="The head that was taught to mark words, or the weights that explain the classifier's score.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="Only so many texts of each file.")
@json_option
def spans(file: Path, tune: Path | None, of: str, by: str, limit: int | None, as_json: bool) -> None:
    """Does the guard mark the words that people marked in FILE (JSONL: text, rationale)? Character F1 and AUPRC."""
    from assistant.benchmarks.spans import evaluate as run
    from assistant.benchmarks.spans import evaluate_marks, read
    from assistant.loading import load_guard

    try:
        rows = read(file, of)[:limit]
        tuning = read(tune, of)[:limit] if tune else rows[::2]
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(str(error)) from error
    if not rows or not tuning:
        raise UsageError(f"{file.name} holds no text with marked spans: give JSONL with text and rationale")
    progress = Progress()
    try:
        guard = load_guard(load_settings(), progress)
        result = evaluate_marks(guard, rows, progress) if by == "marks" else run(guard, tuning, rows if tune else rows[1::2], progress)
    finally:
        progress.done()
    if as_json:
        echo_json(result)
    else:
        for name, value in result.items():
            shown = " … ".join(f"{v:.4g}" for v in value) if isinstance(value, list) else f"{value:.4g}"
            click.echo(f"{name.replace('_', ' '):<20}{shown}")


def load_engine(model: str | None) -> tuple[Any, Progress]:
    """The model and the progress line that showed it loading."""
    from assistant.loading import load_engine as load

    progress = Progress()
    return load(load_settings(model=model), progress), progress
