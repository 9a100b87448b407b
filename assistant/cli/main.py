"""`pellucid`: finds the command, runs it, and turns every error a user can cause into one line on stderr and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

from assistant.errors import PellucidError
from assistant.lm import threads as threads  # whatever the command imports first: how OpenMP waits is read once, when torch is loaded

COMMANDS = {
    "chat": "Talk to the model in the terminal application (also what `pellucid` alone does).",
    "serve": "Open the terminal application in a browser on this machine.",
    "serve-api": "Answer other programs: an OpenAI-compatible server with filter, moderation and log.",
    "ask": "Ask one question; the reply goes to stdout.",
    "explain": "Show which words of the prompt a logged reply came from.",
    "moderate": "Judge texts without generating anything.",
    "models": "List, fetch, inspect and remove models.",
    "audit": "Look into the log: list, show, search, verify, export and more.",
    "config": "Show and change the settings.",
    "train": "Train a language model of your own on text files.",
    "finetune": "Teach a model conversations: all of it, or a small adapter.",
    "safety": "Train and evaluate the safety classifier.",
    "evaluate": "Measure quality on data: how faithful explanations are, how good a language model is.",
    "bench": "Measure this installation on this machine.",
}

INTERRUPTED = 130


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs (or when its own help is asked for)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"assistant.cli.{name.replace('-', '_')}"), name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pellucid", prog_name="pellucid")
@click.option("--model", metavar="NAME|PATH", help="The model for the command that follows (or for the chat).")
@click.pass_context
def cli(ctx: click.Context, model: str | None) -> None:
    """A terminal chat assistant you can see through: local, filtered, moderated, explained, logged."""
    if model:
        ctx.default_map = {name: {"model": model} for name in COMMANDS}
    if ctx.invoked_subcommand is None:
        command = cli.get_command(ctx, "chat")
        assert command is not None
        ctx.invoke(command, **({"model": model} if model else {}))


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Always ends in SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a locale without UTF-8 must not end in a traceback
            stream.reconfigure(errors="backslashreplace")
    arguments = [_as_utf8(a) for a in (sys.argv[1:] if arguments is None else arguments)]
    try:
        code = cli.main(args=arguments, prog_name="pellucid", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        say(error.format_message().rstrip(".") + (f": see `{context.command_path} --help`" if context else ""))
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except PellucidError as error:
        say(str(error))
        code = error.exit_code
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        where = f" ({error.filename})" if error.filename else ""
        say(f"{error.strerror}{where}: make room, or choose another place with PELLUCID_HOME or --db")
        code = 3
    sys.exit(code if isinstance(code, int) else 0)


def _as_utf8(argument: str) -> str:
    """An argument as UTF-8 where the locale made Python read its bytes as something else."""
    try:
        return os.fsencode(argument).decode("utf-8") if any("\ud800" <= c <= "\udfff" for c in argument) else argument
    except UnicodeError:
        return argument


def say(text: str) -> None:
    """One line of narration on stderr; texts from models, files and logs are made harmless to the terminal."""
    from assistant.tui.sanitize import sanitize

    click.echo(f"pellucid: {sanitize(text)}", err=True)
