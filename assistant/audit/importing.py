"""A log from its JSON lines: every record, hash, text, erasure and checkpoint as it was, or nothing at all.

The file is anybody's: each line is bounded, every record must be canonical, every text must match its commitment, and
the root must be the one that header and footer state. The new database appears only when all of that held.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from assistant.audit.export.jsonl import FORMAT, lines
from assistant.audit.export.target import remove
from assistant.audit.verify import Progress
from assistant.errors import PellucidError
from assistant.store import bulk, canonical, migrations
from assistant.store.checkpoint import Checkpoint
from assistant.store.commitment import commit
from assistant.store.connection import as_database, connect, translated
from assistant.store.driver import KEY_VARIABLE, key_in_force, value_errors
from assistant.store.ledger import Ledger

_LONGEST_LINE = 1 << 28
_BAD_FOOTER = "the footer of the export cannot be understood ({}): nothing was imported"


class ImportRefused(PellucidError):
    """The file is no sound export; nothing was imported."""

    exit_code = 3


class HashMismatch(ImportRefused):
    """The file is an export, but not what was written."""

    exit_code = 4


class _Readable(Protocol):
    def readline(self, limit: int = -1, /) -> bytes: ...


@dataclass(slots=True)
class Imported:
    """What was imported."""

    log: str = ""
    size: int = 0
    root: str = ""
    contents: int = 0
    erased: int = 0


@dataclass(slots=True)
class _State:
    loader: bulk.Loader
    missing: dict[tuple[int, str], None] = field(default_factory=dict)
    redacted: dict[tuple[int, str], int] = field(default_factory=dict)
    result: Imported = field(default_factory=Imported)


def import_jsonl(source: Path, target: Path, progress: Progress = lambda done, total: None) -> Imported:
    """Make the database `target` from the export `source`. Raises ImportRefused or LedgerError; then there is no
    target.
    """
    if target.exists() and target.stat().st_size:
        raise ImportRefused(f"{target} exists already: import into a new file with --db")
    try:
        file = source.open("rb")
    except OSError as error:
        raise ImportRefused(f"{source} cannot be read: {error.strerror or error}") from error
    with file:
        return _build(file, target, progress)


def _build(file: _Readable, target: Path, progress: Progress) -> Imported:
    """Load into a draft beside the target, and put it in its place when all of it was sound."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with translated(target):
            with closing(connect(draft, read_only=False)) as connection:
                result = _load(file, connection, progress)
            _sync(draft)
            os.replace(draft, target)
    finally:
        for suffix in ("", "-journal"):
            remove(draft.with_name(draft.name + suffix))
    return result


def encrypted_copy(source: Path, target: Path, progress: Progress = lambda done, total: None) -> Imported:
    """The plain log `source` as the new file `target`, encrypted with the passphrase in force, checked on the way.

    Nothing is ever written in the clear. Raises LedgerError or ImportRefused; then there is no target.
    """
    if not key_in_force():
        raise ImportRefused(f"set {KEY_VARIABLE} to the passphrase of the encrypted copy first")
    if target.exists():
        raise ImportRefused(f"{target} exists already: choose another name for the encrypted copy")
    with Ledger.open(source, read_only=True, key="") as ledger:
        return _build(_Lines(lines(ledger)), target, progress)


class _Lines:
    """Lines that are made on demand, read like a file."""

    def __init__(self, made: Iterator[str]) -> None:
        self._made = made

    def readline(self, limit: int = -1, /) -> bytes:
        return next(self._made, "").encode()


def _load(file: _Readable, connection: sqlite3.Connection, progress: Progress) -> Imported:
    entries = _lines(file)
    header = _take(next(entries, {}), "header")
    if header.get("format") != FORMAT:
        raise ImportRefused("the file is no export of a Pellucid log (its first line is no header)")
    version, size = header.get("schema_version"), header.get("size")
    if not isinstance(version, int) or not 1 <= version <= migrations.newest_version():
        raise ImportRefused(f"the export has schema {version!r}, which this Pellucid does not know: update it")
    with bulk.loading(connection):
        migrations.migrate(as_database(connection), version)
        with bulk.unguarded(connection), bulk.Loader(connection) as loader:
            state = _State(loader)
            footer = _records(entries, state, size if isinstance(size, int) else 0, progress)
            loader.finish()
            _finish(connection, state, header, footer)
        bulk.rebuild_index(connection)
    return state.result


def _records(entries: Iterator[dict[str, Any]], state: _State, size: int, progress: Progress) -> dict[str, Any]:
    """Take in every record; the footer is what follows the last one."""
    for entry in entries:
        if "footer" in entry:
            if next(entries, None) is not None:
                raise ImportRefused("there is something after the footer of the export")
            return _take(entry, "footer")
        _record(entry, state)
        if state.loader.size % 1000 == 0:
            progress(state.loader.size, max(size, state.loader.size))
    raise ImportRefused("the export is cut off: it has no footer")


def _record(entry: dict[str, Any], state: _State) -> None:
    seq = state.loader.size + 1
    text, kept = entry.get("record"), entry.get("content")
    if entry.get("seq") != seq or not isinstance(text, str) or not isinstance(kept, dict):
        raise ImportRefused(f"record {seq} of the export is missing, or out of order")
    try:
        record = canonical.decode(text)
        vouched = record.get("content", {})
        if record["seq"] != seq or not isinstance(record["kind"], str) or not isinstance(record["ts"], int):
            raise ValueError("it has another number, or no kind or time")
        parts: list[bulk.Content] = []
        for part, value in kept.items():
            body = value["text"].encode() if "text" in value else base64.b64decode(value["base64"], validate=True)
            codec, salt = str(value["codec"]), bytes.fromhex(value["salt"])
            if commit(seq, part, codec, salt, body).hex() != vouched.get(part):
                raise HashMismatch(f"the {part} of record {seq} is not the one that was logged: nothing was imported")
            parts.append((seq, part, codec, salt, body))
        state.missing |= dict.fromkeys((seq, part) for part in vouched if part not in kept)
        if record["kind"] == "redact":
            state.redacted |= {(int(at), str(part)): seq for at, part in record["erases"]}
        state.loader.add(record, text, parts)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ImportRefused(f"record {seq} of the export cannot be understood ({error}): nothing was imported") from error
    state.result.contents += len(kept)


def _finish(connection: sqlite3.Connection, state: _State, header: dict[str, Any], footer: dict[str, Any]) -> None:
    size, root = state.loader.tree.size, state.loader.tree.root()
    note = Checkpoint(str(header.get("log")), size, root).note
    if not (header.get("size") == footer.get("size") == size and footer.get("root") == root.hex()):
        raise HashMismatch("the records do not have the size and root that the footer states: nothing was imported")
    if header.get("note") != note or footer.get("note") != note:
        raise HashMismatch("header and footer vouch for another log: nothing was imported")
    for place in state.missing:
        if place not in state.redacted:
            raise HashMismatch(f"the {place[1]} of record {place[0]} is missing without an erasure: nothing was imported")
    try:
        connection.executemany("INSERT INTO erased VALUES (?, ?, ?)", [(*place, state.redacted[place]) for place in state.missing])
        connection.executemany("INSERT INTO registry VALUES (?, ?, ?)", footer["registry"])
        for entry in footer["checkpoints"]:
            point = Checkpoint.from_dict(entry)
            connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?)", (point.size, point.root, point.note, point.ts))
            connection.executemany(
                "INSERT INTO signature VALUES (?, ?, ?, ?)",
                [(point.size, s.method, s.signer, s.text) for s in point.signatures],
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ImportRefused(_BAD_FOOTER.format(error)) from error
    except value_errors() as error:
        raise ImportRefused(_BAD_FOOTER.format(error)) from error
    result = state.result
    result.log, result.size, result.root, result.erased = str(header["log"]), size, root.hex(), len(state.missing)


def _lines(file: _Readable) -> Iterator[dict[str, Any]]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise ImportRefused(f"line {number} is too long")
        try:
            value = _READ(line.decode())
            if not isinstance(value, dict):
                raise ValueError("it is no object")
        except (ValueError, RecursionError) as error:
            raise ImportRefused(f"line {number} cannot be read ({error}): nothing was imported") from error
        yield value


def _take(entry: dict[str, Any], name: str) -> dict[str, Any]:
    value = entry.get(name)
    if not isinstance(value, dict):
        raise ImportRefused(f"the file is no export of a Pellucid log (it has no {name})")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constants(text: str) -> Any:
    raise ValueError(f"{text} is no number")


_READ = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constants).decode


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
