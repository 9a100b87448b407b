"""`pellucid explain`: which words of the prompt a logged reply or verdict came from."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from assistant.cli.cluster_options import cluster_options, logged_turns, sampled, wants_file, work_through
from assistant.cli.common import Progress, db_option, echo_json, load_settings, model_options, open_ledger
from assistant.errors import UsageError
from assistant.session import Session
from assistant.store.ledger import Ledger
from assistant.tui.sanitize import sanitize
from assistant.turn import Turn
from assistant.verdicts import Side
from explain import render
from explain.attribution import Attribution

DEFAULT = "balanced-ablation"
METHODS = (
    "balanced-ablation (default), ablation, fast, gradient-norm, learned-attention, integrated-gradients, contextcite, shapley, "
    "input-x-gradient, attention-rollout"
)


class _WithDefault(click.Group):
    """`pellucid explain TURN` is the command `turn`: what is no other command's name is a turn."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["turn", *args])


@click.group(cls=_WithDefault)
def explain() -> None:
    """Show which words of the prompt a logged reply came from."""


class _Span(click.ParamType):  # type: ignore[type-arg]
    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        try:
            start, end = (int(part) for part in value.split(":"))
        except ValueError:
            self.fail(f"{value!r} is no span: give two token numbers, as 3:7 for tokens 3 to 6", param, ctx)
        return start, end


def question_options(command: Callable[..., None]) -> Callable[..., None]:
    """What of the reply is to be explained."""
    for option in reversed([
        click.option("--token", type=int, metavar="N", help="Explain only token N of the reply (counted from 0)."),
        click.option("--span", type=_Span(), help="Explain only the reply's tokens A to B-1."),
        click.option("--sentence", type=int, metavar="N", help="Explain only sentence N of the reply (counted from 0)."),
        click.option("--contrast", metavar="TEXT", help="Why that part of the reply rather than TEXT?"),
        click.option("--than", default="", metavar="TURN", help="Why this reply rather than that of TURN, to the same prompt?"),
        click.option("--level", default="auto", help="Size of the pieces: auto (default), token, character, word, sentence, turn, role."),
        click.option("--samples", type=click.IntRange(min=2), help="At most so many random subsets or orders."),
        click.option("--seed", type=int, default=0, help="Of what is drawn at random."),
    ]):  # fmt: skip
        command = option(command)
    return command


@explain.command("turn")
@click.argument("turn", default="last")
@question_options
@click.option("--verdict", type=click.Choice(["prompt", "reply"]), help="Explain the safety verdict on one of them instead.")
@click.option("--counterfactual", is_flag=True, help="With --verdict: the words that suffice, and the smallest edit that flips it.")
@click.option("--method", default=DEFAULT, help=f"One of {METHODS}.")
@click.option("--lens", is_flag=True, help="With --token: what each layer would have said there (a view of the inside, no attribution).")
@click.option(
    "--heads", is_flag=True, help="With --token: what each attention head listened to there (a view of the inside, no attribution)."
)
@click.option("--format", "style", type=click.Choice(["text", "json", "html", "png"]), default="text", help="How to print it.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead of stdout.")
@model_options
@db_option
def turn_command(
    turn: str, verdict: str | None, counterfactual: bool, method: str, lens: bool, heads: bool, style: str, as_json: bool,
    output: Path | None, db: str | None, **flags: Any,
) -> None:  # fmt: skip
    """Explain the reply of TURN (an id of `pellucid audit list`, or `last`). The explanation is kept in the log.

    `pellucid explain compare TURN` shows several methods side by side, `pellucid explain fit` fits learned attention to a model.
    """
    question, flags = _question(flags)
    style = "json" if as_json else style
    if counterfactual and verdict is None:
        raise UsageError("--counterfactual needs --verdict prompt or --verdict reply")
    if (lens or heads) and question.get("token") is None:
        raise UsageError(f"--{'lens' if lens else 'heads'} needs --token N: the place in the reply to look at")
    with _opened(turn, db, flags) as (session, found, progress):
        if verdict is not None:
            attribution = session.explain_verdict(found.id, cast(Side, verdict), counterfactual=counterfactual, progress=progress)
        elif lens:
            layers = session.lens(found.id, question["token"], progress)
            progress.done()
            _show_lens(layers, as_json=style == "json")
            return
        elif heads:
            listened = session.heads(found.id, question["token"], progress)
            progress.done()
            _show_heads(listened, as_json=style == "json")
            return
        else:
            attribution = session.explain(found.id, method=method, **question, progress=progress)
    _show(attribution, style, output, f"Turn {found.id}")


@explain.command()
@click.argument("turn", default="last")
@question_options
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="A method to compare; several times (default: balanced-ablation, gradient-norm, contextcite).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@model_options
@db_option
def compare(turn: str, methods: tuple[str, ...], as_json: bool, db: str | None, **flags: Any) -> None:
    """Explain the reply of TURN by several methods and show the scores side by side, with how far the methods agree."""
    from explain.compare import agreement, table

    question, flags = _question(flags)
    with _opened(turn, db, flags) as (session, found, progress):
        chosen = methods or (DEFAULT, "gradient-norm", "contextcite")
        attributions = [session.explain(found.id, method=method, **question, progress=progress) for method in chosen]
    if as_json:
        echo_json({"attributions": [a.to_dict() for a in attributions], "agreement": agreement(attributions)})
    else:
        click.echo(sanitize(table(attributions)))


@explain.command()
@click.option("--sample", type=click.IntRange(min=1), required=True, help="Explain this many turns, drawn from the whole log.")
@click.option("--method", default=DEFAULT, help=f"One of {METHODS}.")
@click.option("--level", default="auto", help="Size of the pieces: auto (default), token, character, word, sentence, turn, role.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which sample, and what is drawn at random.")
@cluster_options
@model_options
@db_option
def batch(
    sample: int, method: str, level: str, seed: int, output: Path | None, cluster: str | None, workers: int, db: str | None, **flags: Any,
) -> None:  # fmt: skip
    """Explain the replies of many turns into --output FILE, one explanation a line (or why there is none). The log is only read."""
    import hashlib

    from assistant.cluster.jobs import Explaining

    if not wants_file(output, cluster):
        raise UsageError("give --output FILE: many explanations go to a file")
    settings = load_settings(db, **flags)
    with open_ledger(settings, read_only=True) as ledger:
        ids = sampled(ledger, sample, seed)
        job, source = Explaining(settings, method, level, seed), hashlib.sha256(" ".join(ids).encode()).hexdigest()
        items = logged_turns(ledger, ids)
        work_through(job, items, output, source=source, cluster=cluster, workers=workers, total=len(ids), what="explained")


@explain.command()
@click.option(
    "--prompts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One prompt a line (default: the shipped ones)."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write (default: where explain looks).")
@model_options
@db_option
def fit(prompts: Path | None, output: Path | None, db: str | None, **flags: Any) -> None:
    """Fit learned attention to the model: about twenty minutes once, then `--method learned-attention` explains in one pass."""
    import json

    from assistant import paths
    from assistant.audit.export.target import writing
    from assistant.loading import load_engine
    from safety.resources import data_path

    progress = Progress()
    try:
        engine = load_engine(load_settings(db, **flags), progress)
        from assistant.benchmarks.faithfulness import fit as run
        from assistant.benchmarks.faithfulness import read_prompts

        fitted = run(engine, read_prompts(prompts or data_path("explain", "fit.txt")), progress=progress)
    finally:
        progress.done()
    file = output or paths.data_dir() / "explain" / f"attention-{engine.info.sha256[:12]}.json"
    if output is None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with writing(file) as stream:
        stream.write(json.dumps(fitted) + "\n")
    click.echo(str(file))


def _question(flags: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of `explaining.Question` and the remaining flags."""
    names = ("token", "span", "sentence", "contrast", "than", "level", "samples", "seed")
    question = {name: flags.pop(name) for name in names}
    question["samples"] = question["samples"] or 0
    return question, flags


@contextmanager
def _opened(turn: str, db: str | None, flags: dict[str, Any]) -> Iterator[tuple[Session, Turn, Progress]]:
    """The session with the model that wrote the turn, the turn, and a progress line."""
    settings = load_settings(db, **flags)
    with open_ledger(settings) as ledger:
        found = _find(ledger, turn)
        if flags.get("model") is None:
            settings = _with_model_of(settings, found.model.name)
        progress = Progress()
        try:
            yield Session(settings, ledger), found, progress
        finally:
            progress.done()


def _find(ledger: Ledger, turn: str) -> Turn:
    found = ledger.latest_turn() if turn == "last" else ledger.turn(turn)
    if found is None:
        raise UsageError("the log holds no turn yet: ask something first")
    return found


def _show(attribution: Attribution, style: str, output: Path | None, title: str) -> None:
    from assistant.audit.export.target import writing

    if style == "png":
        if output is None:
            raise UsageError("a picture goes to a file: give --output NAME.png")
        from explain.picture import save

        with writing(output, binary=True) as picture:
            save(attribution, picture, title)
        return
    if style == "json":
        if output is None:
            echo_json(attribution.to_dict())
            return
        import json

        text = json.dumps(attribution.to_dict(), ensure_ascii=False, indent=2)
    elif style == "html":
        text = render.html_page(attribution, title)
    else:
        safe = replace(
            attribution,
            input_tokens=tuple(sanitize(t) for t in attribution.input_tokens),
            output_tokens=tuple(sanitize(t) for t in attribution.output_tokens),
        )
        text = render.terminal(safe, colour=output is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    if output is None:
        click.echo(text)
    else:
        with writing(output) as file:
            file.write(text + "\n")


def _show_lens(layers: list[list[tuple[str, float]]], *, as_json: bool) -> None:
    if as_json:
        echo_json({"kind": "logit lens: a view of the inside, not an attribution", "layers": [
            [{"text": text, "probability": p} for text, p in layer] for layer in layers
        ]})  # fmt: skip
        return
    click.echo("logit lens: a view of the inside, not an attribution")
    for i, layer in enumerate(layers):
        click.echo(f"layer {i + 1:>3}  " + "  ".join(f"{sanitize(text)!r} {p:.2f}" for text, p in layer))


_SHARP = 16
"""Heads that are shown: those whose attention rests most on one word."""


def _show_heads(layers: list[list[list[tuple[str, float]]]], *, as_json: bool) -> None:
    kind = "attention heads: a view of the inside, not an attribution"
    if as_json:
        echo_json({"kind": kind, "layers": [[[{"text": t, "share": p} for t, p in head] for head in layer] for layer in layers]})
        return
    click.echo(kind)
    every = [(found, i, j) for i, layer in enumerate(layers) for j, found in enumerate(layer)]
    for found, i, j in sorted(every, key=lambda row: -row[0][0][1])[:_SHARP]:
        click.echo(f"layer {i + 1:>3} head {j + 1:>3}  " + "  ".join(f"{sanitize(text)!r} {p:.2f}" for text, p in found))
    click.echo(f"the {min(_SHARP, len(every))} of {len(every)} heads that rest most on one word; --json has all of them")


def _with_model_of(settings: Any, name: str) -> Any:
    """The settings with the model that wrote the turn, when it is one of the catalogue."""
    from assistant.lm.catalog import CATALOG

    return replace(settings, model=name) if any(entry.name == name for entry in CATALOG) else settings
