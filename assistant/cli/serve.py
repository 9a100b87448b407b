"""`pellucid serve`: the terminal application in a browser on this machine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping

import click

from assistant.cli.common import db_option, load_settings, model_options
from assistant.errors import UsageError


def repeated(flags: Mapping[str, object]) -> list[str]:
    """The same flags as words of another command line."""
    words: list[str] = []
    for name, value in flags.items():
        if name == "guard" and value is not None:  # two flags are called otherwise than what they set
            words.append("--unsafe-no-moderation")
        elif value is not None:
            words += ["--lang" if name == "language" else f"--{name.replace('_', '-')}", str(value)]
    return words


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="The port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address; others are refused.")
@click.option(
    "--sessions", type=click.IntRange(1, 64), default=2, show_default=True, help="How many pages may be open: each loads a model."
)
@click.option("--lang", "language", type=click.Choice(["auto", "zh", "en"]), help="Language of the interface.")
@db_option
@model_options
def serve(port: int, host: str, sessions: int, **flags: str | None) -> None:
    """Open the terminal application in a browser. Prints the address, which holds a new secret; Ctrl+C ends it."""
    load_settings(**flags)  # what is wrong with them is said here, not on the page
    try:
        from aiohttp import web

        from assistant.web.server import GuardedServer
    except ImportError as error:
        raise UsageError("the browser needs an extra: pip install 'pellucid[serve]'") from error
    command = shlex.join([sys.executable, "-c", "from assistant.cli.main import main; main()", "chat", *repeated(flags)])
    server = GuardedServer(command, host=host, port=port, sessions=sessions)
    click.echo(server.address)
    sys.stdout.flush()
    try:
        web.run_app(server._make_app(), host=host, port=port, print=None)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from error
