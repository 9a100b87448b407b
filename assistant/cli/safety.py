"""`pellucid safety`: train the classifier from data files, evaluate the guard on labelled texts."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import click

from assistant import paths
from assistant.cli.common import Progress, echo_json, existing, json_option, load_settings
from assistant.cli.main import say
from assistant.errors import UsageError

OWN = ("contrast.zh.jsonl", "contrast.en.jsonl", "borderline.zh.jsonl", "borderline.en.jsonl")


@click.group()
def safety() -> None:
    """Train and evaluate the safety classifier."""


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--dev", multiple=True, metavar="FILE", help="More labelled texts for calibration, never trained on.")
@click.option("--output", required=True, metavar="FILE", help="Where the weights of the n-grams go (.npz).")
@click.option("--encoder", metavar="FILE", help="Fine-tune the encoder as well; where its weights go (.npz). Takes hours.")
@click.option(
    "--prose", multiple=True, metavar="FILE", help="Plain text that is harmless: the encoder learns from it that length is no harm."
)
@click.option("--start", metavar="FILE", help="Encoder weights to go on from: only the rounds of training that they have not seen follow.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def train(
    data: tuple[str, ...],
    dev: tuple[str, ...],
    output: str,
    encoder: str | None,
    prose: tuple[str, ...],
    start: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train the classifier on DATA (.jsonl or .jsonl.gz, see data/safety/MODEL_CARD.md) and the project's own contrast pairs.

    Fine-tuning that was interrupted goes on from its checkpoint (beside FILE) when the same command is given again.
    """
    from safety.resources import data_path
    from safety.train import train as run

    files, more = [existing(f) for f in data], [existing(f) for f in dev]
    own = [data_path("safety", name) for name in OWN]
    report = run(files, Path(output), seed, dev=more, extra=own, say=say)
    if encoder:
        from safety.base_weights import BaseWeightsError
        from safety.train_encoder import train_encoder

        work = Path(f"{encoder}.work")
        try:
            known = existing(start) if start else None
            plain = [existing(f) for f in prose]
            report["encoder"] = train_encoder(
                files, Path(encoder), _base(), Path(output), work, seed, dev=more, extra=own, plain=plain, start=known, say=say
            )
        except BaseWeightsError as error:
            raise UsageError(str(error)) from error
    if as_json:
        echo_json(report)
    else:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--dev", multiple=True, metavar="FILE", help="More labelled texts.")
@click.option("--ngrams", required=True, metavar="FILE", help="The weights of the n-grams (.npz).")
@click.option("--encoder", required=True, metavar="FILE", help="The encoder's weights (.npz); the new calibration is written into them.")
def calibrate(data: tuple[str, ...], dev: tuple[str, ...], ngrams: str, encoder: str) -> None:
    """Fit again how far n-grams and encoder are believed, on the rows of DATA that are kept aside from training and on --dev."""
    from safety.base_weights import BaseWeightsError
    from safety.train_encoder import recalibrate

    files, more = [existing(f) for f in data], [existing(f) for f in dev]
    try:
        report = recalibrate(existing(encoder), _base(), existing(ngrams), files, more, say)
    except (ValueError, BaseWeightsError) as error:
        raise UsageError(str(error)) from error
    click.echo(json.dumps(report, indent=2, ensure_ascii=False))


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--model", help="The model that the probe is for: a name or a file. Default: the one in use.")
@click.option("--output", metavar="FILE", help="Where the probe goes (.npz). Default: the user's data folder, where it is found again.")
@click.option("--replies", type=click.IntRange(40), default=1600, show_default=True, help="How many replies of DATA are read.")
@json_option
def probe(data: tuple[str, ...], model: str | None, output: str | None, replies: int, as_json: bool) -> None:
    """Train a probe on a model's hidden states: how risky a reply looks, token by token.

    DATA: labelled replies as for `train`; the project's own are added. Prints what the probe adds to the guard on replies kept aside.
    """
    from assistant.loading import load_engine, load_guard, probe_folder
    from assistant.probing import train as run
    from safety.probe import ProbeError
    from safety.synthesis import requests, sentences, written
    from safety.train import read

    settings, progress = load_settings(model=model), Progress()
    try:
        rows = [*(row for file in data for row in read([existing(file)])), *sentences(0), *requests(0), *written()]
        engine, guard = load_engine(settings, progress), load_guard(settings, progress)
        progress.done()
        made, report = run(rows, engine, guard, say, most=replies)
    except (ValueError, ProbeError) as error:
        raise UsageError(str(error)) from error
    finally:
        progress.done()
    target = Path(output) if output else probe_folder() / f"probe-{engine.info.sha256[:16]}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    report |= {"file": str(target), "sha256": made.save(target)}
    if as_json:
        echo_json(report)
    else:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--dev", multiple=True, metavar="FILE", help="More labelled texts to measure on, never trained on.")
@click.option("--model", help="The chat model whose trunk is compared: a name or a file. Default: the one in use.")
@click.option(
    "--steps", type=click.IntRange(1), default=300, show_default=True, help="Batches of about 2,000 tokens that each trunk is taught."
)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def compare(data: tuple[str, ...], dev: tuple[str, ...], model: str | None, steps: int, seed: int, as_json: bool) -> None:
    """Which trunk reads best: the guard's encoder or the chat model's own, taught the same from DATA, beside what is shipped.

    Both begin with nothing learnt, get the same examples, as many steps, low-rank changes of the same rank and heads of the same shape, and
    are measured on the rows of DATA that are kept aside from training and on --dev. Nothing is written.
    """
    from dataclasses import replace

    from assistant.chat_trunk import ChatStudent
    from assistant.loading import load_engine
    from safety.base_weights import BaseWeights, BaseWeightsError
    from safety.classifier import Classifier
    from safety.comparison import EncoderStudent, Student
    from safety.comparison import compare as run
    from safety.curriculum import Curriculum
    from safety.ensemble import Ensemble
    from safety.finetune import RANK
    from safety.reader import Reader
    from safety.resources import data_path
    from safety.synthesis import sentences
    from safety.train import held_out, read

    settings, progress = load_settings(model=model), Progress()
    try:
        rows = list(read([existing(file) for file in data]))
        aside = [*(row for row in rows if held_out(row)), *read([existing(file) for file in dev])]
        curriculum = Curriculum([*(row for row in rows if not held_out(row)), *sentences(seed)], [], seed)
        base = _base()
        shipped = Ensemble(Classifier.load(data_path("safety", "classifier.npz")), Reader.load(base, data_path("safety", "encoder.npz")))
        students: list[Student] = [
            EncoderStudent(BaseWeights(base), seed),
            ChatStudent(load_engine(replace(settings, dtype="bfloat16"), progress), RANK, seed),
        ]
        progress.done()
        report = run(students, curriculum, aside, shipped, steps=steps, seed=seed, say=say)
    except (ValueError, BaseWeightsError) as error:
        raise UsageError(str(error)) from error
    finally:
        progress.done()
    if as_json:
        echo_json(report)
    else:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--set", "of", default="toxic_spans_train", show_default=True, metavar="NAME", help="The lines of DATA that teach.")
@click.option("--output", required=True, metavar="FILE", help="Where the weights go (.npz).")
@click.option("--seed", type=int, default=0, show_default=True)
def spans(data: tuple[str, ...], of: str, output: str, seed: int) -> None:
    """Teach the guard which words people mark as toxic. DATA: .jsonl or .jsonl.gz with text and rationale [[start, end), …].

    The encoder is changed by low ranks for this alone: no verdict depends on it. Takes about half an hour on two cores.
    """
    from assistant.benchmarks.spans import read
    from safety.base_weights import BaseWeightsError
    from safety.resources import data_path
    from safety.spans import train as run

    try:
        rows = [row for file in data for row in read(existing(file), of)]
        made = run(_base(), data_path("safety", "encoder.npz"), [row.text for row in rows], [row.gold for row in rows], seed, say)
    except (ValueError, BaseWeightsError) as error:
        raise UsageError(str(error)) from error
    made.save(Path(output))
    click.echo(output)


def _base() -> Path:
    """The encoder's trunk, fetched when it is missing."""
    from assistant.lm import catalog, pull

    progress = Progress()
    try:
        return pull.pull(catalog.GUARD_ENCODER, progress)
    finally:
        progress.done()


@safety.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--policy", help="The safety policy: strict, balanced, open.")
@click.option("--peer", "peers", multiple=True, metavar="NAME", help="Another guard for the table: a known name, or module:function.")
@json_option
def evaluate(data: tuple[str, ...], policy: str | None, peers: tuple[str, ...], as_json: bool) -> None:
    """F1, AUPRC, recall at 1 % false positives, calibration error and speed of the guard on labelled texts, zh and en apart.

    DATA: .jsonl(.gz) with text, label (safe or unsafe), role, lang; or a public benchmark in its published format. A path, or an
    address with its checksum: https://…/file#sha256=…
    """
    from dataclasses import asdict

    from assistant.loading import load_guard
    from safety.evaluate import evaluate as run
    from safety.evaluate import read_benchmark, report
    from safety.peers import PeerError, load_peer
    from safety.sources import resolve

    progress = Progress()
    try:
        files = [existing(str(resolve(source, paths.cache_dir() / "benchmarks"))) for source in data]
        rows = [row for file in files for row in read_benchmark(file)]
        guard = load_guard(load_settings(policy=policy), progress)
        tables = {"pellucid": run(rows, guard, lambda done: progress("judging", done / len(rows)))}
        for name in peers:
            tables[name] = run(rows, load_peer(name))
    except (ValueError, PeerError) as error:
        raise UsageError(str(error)) from error
    finally:
        progress.done()
    if as_json:
        records = [{"guard": name, **asdict(f)} for name, figures in tables.items() for f in figures]
        echo_json([{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()} for record in records])
        return
    for name, figures in tables.items():
        click.echo(f"{name}\n{report(figures)}" if peers else report(figures))


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
