"""What all `pellucid audit` commands share: options, opening the log, safe output, times, exit codes.

stdout is data, stderr is narration. Exit codes: 0 ok, 1 findings, 2 usage, 3 unreadable, 4 tampered.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assistant.audit.moments import microseconds
from assistant.audit.plain import json_text, plain, when
from assistant.errors import PellucidError

if TYPE_CHECKING:
    from assistant.store.ledger import Ledger

__all__ = ["json_text", "plain", "when"]

F = TypeVar("F", bound=Callable[..., Any])

_LOG_ACCESS = "pellucid.log_access"


class AuditGroup(click.Group):
    """Shows every PellucidError as one line on stderr and leaves with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PellucidError as error:
            if ctx.parent is not None:
                raise  # the program's entry point shows it
            raise _Shown(error) from error


class _Shown(click.ClickException):
    def __init__(self, error: PellucidError) -> None:
        super().__init__(plain(str(error)))
        self.exit_code = error.exit_code  # type: ignore[misc]


def database_options(command: F) -> F:
    """`--db` and `--json`, which every audit command has."""
    database = click.option("--db", type=click.Path(path_type=Path, dir_okay=False), help="The log; the user's own when it is not given.")
    log_access = click.option(
        "--log-access", is_flag=True, expose_value=False, callback=_remember_access,
        help="Note in the log itself that it was looked at, by whom and how.",
    )  # fmt: skip
    return database(json_option(log_access(command)))


def _remember_access(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    ctx.meta[_LOG_ACCESS] = wanted


def json_option(command: F) -> F:
    """`--json` alone."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(command)


def log_export_option(command: F) -> F:
    """`--log-export`, for everything that takes texts out of the log."""
    return click.option(
        "--log-export/--no-log-export", default=True, show_default=True,
        help="Note in the log itself that it was exported; leave a copy that is evidence untouched with --no-log-export.",
    )(command)  # fmt: skip


def filter_options(command: F) -> F:
    """The options that narrow a list or a search."""
    for option in reversed((
        click.option("--since", type=TIME, help="Not before: 2026-01-31, 2026-01-31T09:30, or 7d, 12h, 30min ago."),
        click.option("--until", type=TIME, help="Before this time."),
        click.option(
            "--verdict", type=click.Choice(["allow", "caution", "redact", "block", "flagged"]),
            help="The more severe of the two verdicts; flagged is all but allow.",
        ),
        click.option("--category", help="The deciding category of flagged turns."),
        click.option("--model", help="The model that answered."),
        click.option("--lang", "language", type=click.Choice(["zh", "en"]), help="Language of the prompt."),
        click.option("--conversation", help="The id of a conversation."),
        click.option("--finish", help="How the reply ended: stop, length, stopped, interrupted …"),
        click.option("--reviewed/--unreviewed", "reviewed", default=None, help="Whether a person has reviewed it."),
    )):  # fmt: skip
        command = option(command)
    return command


class _Time(click.ParamType):  # type: ignore[type-arg]
    """A time in microseconds since 1970 from a date, a date with time (local), or an age like 7d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return microseconds(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time: write 2026-01-31, 2026-01-31T09:30, or an age like 7d, 12h, 30min", param, ctx)


TIME = _Time()


def open_ledger(db: Path | None, *, write: bool = False) -> Ledger:
    """The log to be audited, for reading only unless `write`. With `--log-access` the access is logged first."""
    from assistant import settings
    from assistant.store.ledger import Ledger

    path = db or settings.load().database_path
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_LOG_ACCESS):
        with Ledger.open(path, read_only=True):
            pass  # a log that is not there is not made by looking at it
        with Ledger.open(path) as ledger:
            command = context.command_path.split(" ", 1)[-1]
            ledger.record_event("access", {"command": command, "reader": ledger.pseudonym()})
    return Ledger.open(path, read_only=not write)


def note_export(db: Path | None, form: str, wanted: bool, which: Any = None, **fields: Any) -> None:
    """Log an export before it is made, where that is `wanted`."""
    from assistant import settings
    from assistant.audit.events import note_export as note

    if wanted:
        note(db or settings.load().database_path, form, which, say=say, **fields)


def print_json(value: Any) -> None:
    """One JSON document on stdout, safe for a terminal."""
    click.echo(json_text(value, indent=2))


def say(text: str) -> None:
    """Narration, on stderr."""
    click.echo(plain(text), err=True)


def fit(text: str, width: int) -> str:
    """`text` on one line in exactly `width` terminal cells; a Chinese character takes two."""
    from rich.cells import cell_len, set_cell_size

    line = plain(" ".join(text.split()))
    return set_cell_size(line, width) if cell_len(line) <= width else set_cell_size(line, width - 1) + "…"


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A counter on stderr where somebody watches; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        click.echo(f"\r{label} {100 * done // max(total, 1):3d}%", err=True, nl=done >= total)

    return show
