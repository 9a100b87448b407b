"""`audit replay`: would the logged model have written the logged reply? The one audit command that loads a model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assistant.cli.audit_common import database_options, open_ledger, plain, print_json, progress_bar, say
from assistant.errors import ModelError, PellucidError, UsageError

if TYPE_CHECKING:
    from assistant.audit.replay import Judge, Replay, Replayable
    from assistant.turn import ModelInfo


@click.command()
@click.argument("turns", nargs=-1)
@click.option("--sample", type=click.IntRange(min=1), help="Replay this many turns, drawn from the whole log.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which sample.")
@click.option("--exact", is_flag=True, help="Generate token by token as then, to find bit for bit the same.")
@click.option("--model", help="The model file to replay with; the logged model is looked up otherwise.")
@click.option("--tokens", "by_token", is_flag=True, help="Also every token: difference of log-probability, margin.")
@click.option("--safety/--no-safety", default=True, help="Also judge prompts and replies again.")
@database_options
@click.pass_context
def replay(
    ctx: click.Context, db: Path | None, as_json: bool, turns: tuple[str, ...], sample: int | None, seed: int, exact: bool,
    model: str | None, by_token: bool, safety: bool,
) -> None:  # fmt: skip
    """Score logged replies again with the logged model, seed and sampling, and judge their safety again.

    EXACT and CONSISTENT: this model wrote this. SAMPLER-MISMATCH: it would have chosen other tokens. MODEL-MISMATCH: another
    model, prompt or text. NOT-REPLAYABLE: erased, blocked, or the model is not here. Exit code 1 when anything contradicts the log.
    """
    from assistant.audit.replay import replay as run

    if not turns and sample is None:
        raise UsageError("say which turn to replay, or --sample N for a sample of the log")
    results: list[Replay] = []
    texts: list[list[str]] = []
    with open_ledger(db) as ledger:
        ids = [ledger.turn(turn).id for turn in turns]
        if sample is not None:
            everything = [turn for (turn,) in ledger.query("SELECT turn FROM ledger WHERE kind = 'output' ORDER BY seq")]
            ids += random.Random(seed).sample(everything, min(sample, len(everything)))
        engines = _Engines(model)
        show = progress_bar("replaying")
        for done, id_ in enumerate(ids, 1):
            turn = ledger.turn(id_)
            engine = engines.engine(turn.model) if turn.tokens and not turn.erased else None
            guard = engines.guard(turn.prompt_verdict.policy) if safety else None
            results.append(run(ledger, id_, engine, guard, exact=exact))
            texts.append([token.text for token in turn.tokens])
            show(done, len(ids))
    if as_json:
        print_json([result.to_dict(steps=by_token) for result in results])
    else:
        for result, words in zip(results, texts, strict=True):
            click.echo(plain(_line(result)))
            for number, ((delta, margin), word) in enumerate(zip(result.steps, words, strict=False) if by_token else ()):
                click.echo(plain(f"{number:>6}  Δlogp {delta:<10.3g} margin {margin:<10.3g} {word!r}"))
        if len(results) > 1:
            tally = {result.outcome.value: sum(other.outcome == result.outcome for other in results) for result in results}
            say(", ".join(f"{count} {name}" for name, count in tally.items()))
    for reason in engines.troubles:
        say(reason)
    ctx.exit(int(not all(result.is_faithful for result in results)))


class _Engines:
    """The models and guards that the turns need, each loaded once; why one cannot be loaded is kept."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._engines: dict[tuple[str, str], Replayable | None] = {}
        self._guards: dict[str, Judge | None] = {}
        self.troubles: list[str] = []

    def engine(self, info: ModelInfo) -> Replayable | None:
        """The engine for turns of this model in its number format."""
        key = (info.sha256, info.dtype)
        if key not in self._engines:
            for other in [k for k, engine in self._engines.items() if engine is not None]:
                del self._engines[other]  # one model in memory at a time
            self._engines[key] = self._attempt(lambda: self._load_engine(info))
        return self._engines[key]

    def guard(self, policy: str) -> Judge | None:
        """The guard of a policy by its logged name; the stamp after the @ is compared later."""
        name = policy.partition("@")[0]
        if name not in self._guards:
            self._guards[name] = self._attempt(lambda: self._load_guard(name))
        return self._guards[name]

    def _load_engine(self, info: ModelInfo) -> Replayable:
        from assistant import settings
        from assistant.audit.rescore import EngineReplay
        from assistant.lm import catalog, hub
        from assistant.loading import load_engine

        name = self._model or info.name
        if not self._model:
            name = next((full for full, place in hub.fetched() if place.name == name), name)
        if not hub.is_name(name) and not catalog.looks_like_path(name):
            try:
                entry = catalog.find(name)
            except ModelError:
                name = settings.load().model  # the file's own name was logged; its hash is compared later
            else:
                if not entry.path.exists():
                    raise ModelError(f"the model {name} is not here: run `pellucid models pull {name}` to replay its turns")
        wanted = settings.load({"model": name, "dtype": info.dtype, "device": info.device})
        return EngineReplay(load_engine(wanted, lambda what, fraction: None))

    def _load_guard(self, name: str) -> Judge:
        from assistant import settings
        from assistant.loading import load_guard

        return load_guard(settings.load({"policy": name or None}), lambda what, fraction: None)

    def _attempt(self, load: Any) -> Any:
        try:
            return load()
        except ModelError as error:
            self.troubles.append(str(error))
        except PellucidError as error:
            self.troubles.append(f"verdicts were not replayed: {error}")
        return None


def _line(result: Replay) -> str:
    text = f"{result.turn} {result.outcome.value:<16}"
    if result.tokens:
        margin = f"{result.worst_margin:.2g}" if result.worst_margin < float("inf") else "cut"
        text += f" {result.tokens} tokens, {result.mismatches} differ, margin {margin}, Δlogp {result.worst_logprob:.2g}"
        text += f"; prompt {result.prompt}"
    if result.ended is False:
        text += "; the model would not have ended here"
    for side, answer in result.safety.items():
        text += f"; {side} verdict {answer}"
    return text + (f" ({result.reason})" if result.reason else "")


COMMANDS = (replay,)
