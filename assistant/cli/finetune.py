"""`pellucid finetune`: teach a model conversations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from assistant.cli.common import Progress, db_option, json_option, load_settings, model_option
from assistant.cli.main import say
from assistant.cli.train import finish
from assistant.errors import UsageError


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder for the adapter or the model.")
@click.option("--rank", type=int, default=8, show_default=True, help="Of the adapter; 0 trains all weights.")
@click.option("--alpha", type=float, default=16.0, show_default=True, help="How strongly the adapter acts, divided by its rank.")
@click.option("--target", "targets", multiple=True, help="qkv, out, gate_up, down: what the adapter changes (default: all).")
@click.option("--merge", is_flag=True, help="Store a whole model with the adapter added.")
@click.option("--steps", type=int, default=200, show_default=True)
@click.option("--batch", type=int, default=8, show_default=True, help="Windows a step.")
@click.option("--context", type=int, default=256, show_default=True, help="Tokens a window; it holds several conversations.")
@click.option("--accumulate", type=int, default=1, show_default=True, help="Read a batch in so many rounds.")
@click.option("--half", is_flag=True, help="Store the adapter as float16: half the file.")
@click.option("--words", type=int, default=0, show_default=True, help="An adapter's loss is taken over so many words; 0: the vocabulary.")
@click.option("--rate", type=float, help="The highest learning rate (default: 5e-4 for an adapter, 5e-5 for all weights).")
@click.option("--warmup", type=int, default=10, show_default=True)
@click.option("--evaluate-every", type=int, default=50, show_default=True, help="Test every so many steps.")
@click.option("--sample-every", type=int, default=100, show_default=True, help="Answer --chat every so many steps.")
@click.option("--save-every", type=int, default=100, show_default=True, help="Write a checkpoint every so many steps, and every 2 minutes.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--validation", type=float, default=0.02, show_default=True, help="The part of the conversations that is only tested on.")
@click.option("--chat", "chats", multiple=True, help="Answer this now and then (may be given several times).")
@click.option("--kind", type=click.Choice(["auto", "chat", "topics"]), default="auto", show_default=True, help="Of FILES.")
@click.option("--licence", default="", help="Of FILES, for the card.")
@click.option("--keep-duplicates", is_flag=True, help="Learn from what is there twice, too (one reply to several wordings).")
@click.option("--keep-personal-data", is_flag=True, help="Do not replace personal data and secrets.")
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=int, help="Processor threads; 0 takes all.")
@click.option("--no-log", is_flag=True, help="Do not note the run in the log.")
@db_option
@click.option("--chat-format", help="How conversations are laid out for a model without a chat template: chatml, llama3, gemma, …")
@model_option
@json_option
def finetune(
    files: tuple[Path, ...], output: Path, rank: int, alpha: float, targets: tuple[str, ...], merge: bool, half: bool, words: int,
    rate: float | None, validation: float, chats: tuple[str, ...], kind: Any, licence: str, keep_duplicates: bool, keep_personal_data: bool,
    device: str, threads: int | None, no_log: bool, model: str | None, chat_format: str | None, as_json: bool,
    db: str | None, **numbers: Any,
) -> None:  # fmt: skip
    """Teach a model the conversations in FILES (JSONL with messages). Only what the assistant says is learnt.

    The adapter is small and belongs to this base model; `--model DIR` loads both. `--merge` or `--rank 0` store a whole model.
    """
    settings = replace(load_settings(model=model, threads=threads, device=device, chat_format=chat_format), dtype="float32")
    from assistant.lm.lora import TARGETS
    from assistant.lm.train import Plan
    from assistant.loading import load_engine, looks_like_adapter
    from assistant.training.corpus import Source
    from assistant.training.finetuning import FineTuning, Method

    plan = Plan(
        **numbers,
        rate=rate or (5e-4 if rank else 5e-5),
        weight_decay=0.0 if rank else 0.01,
    )
    sources = [Source(path, kind=kind, licence=licence) for path in files]
    if rank < 0:
        raise UsageError(f"the rank of an adapter must be at least 1, or 0 for all weights, not {rank}")
    if looks_like_adapter(settings.model) and rank and not merge:
        raise UsageError("this model is an adapter already: give --merge to store a whole model, or choose its base")
    progress = Progress()
    engine = load_engine(settings, progress)
    progress.done()
    path = Path(settings.model).expanduser()
    base = str(path.resolve()) if path.exists() else settings.model
    work = FineTuning(
        engine, base, sources, plan, Method(rank, alpha, targets or TARGETS, merge, half, words), output,
        validation=validation, chats=chats, scrub=not keep_personal_data, deduplicate=not keep_duplicates,
        watts=settings.watts_per_core, say=say,
    )  # fmt: skip
    finish(work, as_json, log=not no_log, db=db)
