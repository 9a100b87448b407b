"""What all `pellucid audit` commands share: options, opening the log, safe output, times, exit codes.

stdout is data, stderr is narration. Exit codes: 0 ok, 1 findings, 2 usage, 3 unreadable, 4 tampered.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from assistant.errors import PellucidError

F = TypeVar("F", bound=Callable[..., Any])

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029"
    "\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
_AGO = re.compile(r"(\d+)\s*(min|h|d|w)")
_UNIT = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class AuditGroup(click.Group):
    """Shows every PellucidError as one line on stderr and leaves with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PellucidError as error:
            raise _Shown(error) from error


class _Shown(click.ClickException):
    def __init__(self, error: PellucidError) -> None:
        super().__init__(plain(str(error)))
        self.exit_code = error.exit_code  # type: ignore[misc]


def database_options(command: F) -> F:
    """`--db` and `--json`, which every audit command has."""
    database = click.option(
        "--db", type=click.Path(path_type=Path, dir_okay=False), help="The log; the user's own when it is not given."
    )
    return database(json_option(command))


def json_option(command: F) -> F:
    """`--json` alone."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(command)


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
        age = _AGO.fullmatch(str(value).strip())
        try:
            if age:
                moment = datetime.now(UTC) - timedelta(**{_UNIT[age[2]]: int(age[1])})
            else:
                moment = datetime.fromisoformat(str(value).strip())
            return int(moment.timestamp() * 1_000_000)
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is no time: write 2026-01-31, 2026-01-31T09:30, or an age like 7d, 12h, 30min", param, ctx
            )


TIME = _Time()


def open_ledger(db: Path | None, *, write: bool = False) -> Any:
    """The log to be audited, for reading only unless `write`."""
    from assistant import settings
    from assistant.store.ledger import Ledger

    return Ledger.open(db or settings.load().database_path, read_only=not write)


def print_json(value: Any) -> None:
    """One JSON document on stdout, safe for a terminal."""
    click.echo(json_text(value, indent=2))


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in which every control character is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _CONTROL.sub(lambda m: "".join(f"\\u{unit:04x}" for unit in _utf16(m.group())), text)


def plain(text: str) -> str:
    """`text` without anything that a terminal would obey: control characters become visible signs."""

    def sign(match: re.Match[str]) -> str:
        code = ord(match.group())
        return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"

    return _CONTROL.sub(sign, text)


def when(us: int) -> str:
    """A time as the reader's clock showed it."""
    try:
        return datetime.fromtimestamp(us / 1_000_000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "?"


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


def _utf16(character: str) -> list[int]:
    raw = character.encode("utf-16-be")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]
