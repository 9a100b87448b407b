"""Options and helpers that several commands share. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assistant import settings as configuration
from assistant.errors import UsageError
from assistant.settings import Settings

if TYPE_CHECKING:
    from assistant.store.ledger import Ledger

F = TypeVar("F", bound=Callable[..., Any])

db_option = click.option("--db", metavar="PATH", help="The log to use instead of the default one.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
model_option = click.option("--model", metavar="NAME|PATH", help="A model of `pellucid models list`, a .gguf file or a model folder.")


def model_options(command: F) -> F:
    """--model, --engine, --base-url, --device, --dtype, --chat-format, --threads, --policy, --unsafe-no-moderation."""
    for option in (
        click.option(
            "--unsafe-no-moderation",
            "guard",
            flag_value="off",
            default=None,
            help="Check nothing, neither prompt nor reply; every turn and the log say so.",
        ),
        click.option("--policy", help="The safety policy: strict, balanced, open."),
        click.option("--chat-format", help="How messages are laid out for a model of your own: chatml, llama3, gemma, …"),
        click.option("--threads", type=int, help="Processor threads; 0 takes all."),
        click.option("--dtype", help="auto, float32, bfloat16, float16, int8, int4, int4+bfloat16."),
        click.option("--device", help="auto, cpu, cuda, mps."),
        click.option("--base-url", metavar="URL", help="With --engine openai: the server's address, as http://127.0.0.1:8000/v1."),
        click.option("--engine", help="local (default), or openai: a server runs the model."),
        model_option,
    ):
        command = option(command)
    return command


def sampling_options(command: F) -> F:
    """--temperature, --top-k, --top-p, --min-p, --repetition-penalty, --max-tokens."""
    for option in (
        click.option("--max-tokens", type=int, help="The longest reply, in tokens."),
        click.option("--repetition-penalty", type=float, help="Penalty on tokens already written; 1 is none."),
        click.option("--min-p", type=float, help="Keep tokens at least this fraction as likely as the likeliest."),
        click.option("--top-p", type=float, help="Keep the likeliest tokens up to this total probability."),
        click.option("--top-k", type=int, help="Keep the k likeliest tokens; 0 keeps all."),
        click.option("--temperature", type=float, help="Randomness; 0 always takes the likeliest token."),
    ):
        command = option(command)
    return command


def load_settings(db: str | None = None, **flags: Any) -> Settings:
    """The settings in force, with the flags that were given."""
    return configuration.load({**flags, "database": db})


@contextlib.contextmanager
def open_ledger(settings: Settings, *, log: bool = True, read_only: bool = False) -> Iterator[Ledger]:
    """The ledger of the settings, or with `log=False` one in memory that leaves no trace."""
    from assistant.store.ledger import Ledger

    ledger = Ledger.open(settings.database_path if log else ":memory:", read_only=read_only)
    try:
        yield ledger
    finally:
        ledger.close()


def read_text(argument: str, limit: int = 10_000_000) -> str:
    """The argument, or standard input when it is `-`. Raises UsageError for what is no text or too long."""
    if argument != "-":
        return argument
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise UsageError(f"the input is longer than {limit // 1_000_000} MB: give a shorter text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"the input is not UTF-8 text (byte {error.start}): convert it first") from error


def echo_json(value: object) -> None:
    """One JSON document on stdout; on a terminal everything that is not plain ASCII is escaped, for no control sequence may pass."""
    try:
        text = json.dumps(value, ensure_ascii=sys.stdout.isatty() or not _utf8(), allow_nan=False)
    except ValueError as error:
        raise UsageError(f"the result holds a value that JSON cannot say: {error}") from error
    click.echo(text)


def _utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


class Progress:
    """What is being done, as one changing line on stderr; on something that is no terminal, one line a step."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what = ""
        self._width = 0

    def __call__(self, what: str, fraction: float | None) -> None:
        if self._live:
            bar = "" if fraction is None else f" {'█' * int(fraction * 24):░<24} {fraction:4.0%}"
            line = f"{what}{bar}"
            sys.stderr.write("\r" + line + " " * max(self._width - len(line), 0))
            sys.stderr.flush()
            self._width = len(line)
        elif what != self._what:
            click.echo(f"{what} …", err=True)
        self._what = what

    def done(self) -> None:
        """Clear the line."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0


def existing(path: str) -> Path:
    """A path that must exist. Raises UsageError otherwise."""
    found = Path(path).expanduser()
    if not found.exists():
        raise UsageError(f"there is no file {path}")
    return found
