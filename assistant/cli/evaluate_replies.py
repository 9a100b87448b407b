"""`pellucid evaluate replies`: how well models converse, side by side."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from assistant.cli.common import Progress, echo_json, json_option, load_settings
from assistant.cli.main import say
from assistant.errors import UsageError
from assistant.tui.sanitize import sanitize


@click.command("replies")
@click.argument("models", nargs=-1, required=True)
@click.option("--chats", "files", multiple=True, type=click.Path(path_type=Path), help="Conversations that none has learnt from.")
@click.option("--kind", type=click.Choice(["auto", "chat", "topics"]), default="auto", show_default=True, help="Of --chats.")
@click.option("--prompts", type=click.Path(path_type=Path), help="A table of topic, language, prompt (default: the 60 shipped ones).")
@click.option("--max-tokens", type=click.IntRange(min=1), default=96, show_default=True, help="The longest reply.")
@click.option("--page", type=click.Path(path_type=Path), help="Write figures and replies into this file (Markdown).")
@click.option("--dtype", help="auto, float32, bfloat16, float16, int8, int4, int4+bfloat16.")
@click.option("--threads", type=int, help="Processor threads; 0 takes all.")
@click.option("--chat-format", help="For a model without a chat template: chatml, llama3, gemma, …")
@json_option
def replies(
    models: tuple[str, ...], files: tuple[Path, ...], kind: Any, prompts: Path | None, max_tokens: int, page: Path | None,
    dtype: str | None, threads: int | None, chat_format: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Perplexity of good replies, and the replies of MODELS to fixed prompts: do they end, do they go in circles?

    A prompt whose topic is a persona gets its system prompt, any other one that of the settings. The likeliest token is always taken, so
    that the same model gives the same replies.
    """
    from assistant.loading import load_engine
    from assistant.training import replies as judging
    from assistant.training.corpus import Source, read
    from assistant.tui import personas
    from safety.resources import data_path

    settings, progress = load_settings(dtype=dtype, threads=threads, chat_format=chat_format), Progress()
    conversations = [text for file in files for text in read(Source(file, kind=_kind(kind, file)))]
    questions = judging.read_questions(prompts or data_path("voice", "prompts.tsv"))
    known = {persona.id: persona for persona in personas.read_all()}

    def system(question: judging.Question) -> str:
        return known[question.topic].system(question.language) if question.topic in known else settings.system

    found = []
    try:
        for name in models:
            engine = load_engine(replace(settings, model=name), progress)
            found.append(judging.judge(engine, conversations, questions, system, max_tokens=max_tokens, progress=progress))
            del engine  # one model in memory at a time
    finally:
        progress.done()
    if page is not None:
        try:
            page.write_text(judging.page(found, questions), "utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {page} ({error.strerror}): choose another --page") from error
        say(f"written: {page}")
    if as_json:
        echo_json([asdict(f) for f in found])
        return
    width = max(16, *(len(f.model) + 2 for f in found))
    click.echo(f"{'':<40}" + "".join(f"{f.model:>{width}}" for f in found))
    for title, values in judging.rows(found):
        click.echo(f"{title:<40}" + "".join(f"{value:>{width}}" for value in values))
    for number, question in enumerate(questions):
        click.echo(sanitize(f"\n{question.topic}: {question.text}"))
        for f in found:
            click.echo(sanitize(f"  {f.model}: {f.replies[number]}").replace("\n", "⏎"))


def _kind(kind: Any, file: Path) -> Any:
    """A table is one of topics where nothing else was said."""
    return "topics" if kind == "auto" and file.suffix == ".tsv" else kind
