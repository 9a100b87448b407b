"""`pellucid serve-api`: the glass box as an OpenAI-compatible server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from assistant.cli.common import Progress, db_option, load_settings, model_options, open_ledger
from assistant.cli.main import say
from assistant.errors import UsageError

if TYPE_CHECKING:
    from assistant.served.api_keys import Keys


@click.command("serve-api")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port to listen on; 0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="What to listen on; others than loopback need keys (--add-key).")
@click.option("--add-key", metavar="NAME", help="Make a key for NAME, print it once, and end.")
@click.option("--remove-key", metavar="NAME", help="Take the key of NAME away, and end.")
@click.option("--list-keys", is_flag=True, help="Print who has a key and what the log calls them, and end.")
@click.option("--rate", type=click.IntRange(min=0), default=120, show_default=True, help="Requests a minute and key; 0 for any number.")
@click.option("--body-limit", type=click.IntRange(min=1000), default=1_000_000, show_default=True, help="Bytes of one request.")
@click.option(
    "--at-once", type=click.IntRange(1, 1000), default=64, show_default=True, help="Replies in the making, waiting ones included."
)
@model_options
@db_option
def serve_api(
    port: int, host: str, add_key: str | None, remove_key: str | None, list_keys: bool, rate: int, body_limit: int, at_once: int,
    db: str | None, **flags: Any,
) -> None:  # fmt: skip
    """Serve /v1/chat/completions, /v1/moderations and /v1/models for other programs, on this machine by default.

    Without keys (--add-key) one is made for this run and printed. Prints the address on stdout; Ctrl+C ends it.
    """
    settings = load_settings(db, **flags)
    from assistant.served.api_keys import Keys

    keys = Keys()
    if add_key or remove_key or list_keys:
        _manage(keys, add_key, remove_key, list_keys, db, flags)
        return
    from assistant.web.loopback import is_loopback

    if not is_loopback(host) and not keys.names:
        raise UsageError(f"{host} can be reached from other machines: make keys first with `pellucid serve-api --add-key NAME`")
    try:
        from assistant.served.api import Api
        from assistant.served.running import listen, run
    except ImportError as error:
        raise UsageError("the server needs an extra: pip install 'pellucid[api]'") from error
    from assistant.served.limits import Limits
    from assistant.session import Session

    with listen(host, port) as socket, open_ledger(settings) as ledger:
        ledger.recover()
        progress = Progress()
        session = Session(settings, ledger)
        session.load(progress)
        progress.done()
        if not keys.names:
            say(f"the key for this run: {keys.add('local', keep=False)}")
        name = f"[{host}]" if ":" in host else host
        click.echo(f"http://{name}:{socket.getsockname()[1]}/v1")
        sys.stdout.flush()
        run(Api(session, keys, Limits(rate, body_limit, at_once=at_once)), socket)


def _manage(keys: Keys, add: str | None, remove: str | None, listed: bool, db: str | None, flags: dict[str, Any]) -> None:
    """Add, remove, list. The key alone goes to stdout."""
    if add:
        click.echo(keys.add(add))
    if remove:
        keys.remove(remove)
    if listed:
        with open_ledger(load_settings(db, **flags)) as ledger:
            for name in keys.names:
                click.echo(f"{name}\t{ledger.pseudonym(name)}")
