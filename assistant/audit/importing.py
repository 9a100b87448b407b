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
from typing import IO, Any

from assistant.audit.export.jsonl import FORMAT
from assistant.audit.verify import Progress
from assistant.errors import PellucidError
from assistant.store import bulk, canonical, migrations
from assistant.store.checkpoint import Checkpoint
from assistant.store.commitment import commit
from assistant.store.connection import as_database, connect, translated
from assistant.store.merkle import GENESIS, Frontier, leaf_hash, link_hash

_LONGEST_LINE = 1 << 28
_BATCH = 1000


class ImportRefused(PellucidError):
    """The file is no sound export; nothing was imported."""

    exit_code = 3


class HashMismatch(ImportRefused):
    """The file is an export, but not what was written."""

    exit_code = 4


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
    link: bytes = GENESIS
    tree: Frontier = field(default_factory=Frontier)
    missing: dict[tuple[int, str], None] = field(default_factory=dict)
    redacted: dict[tuple[int, str], int] = field(default_factory=dict)
    result: Imported = field(default_factory=Imported)


def import_jsonl(source: Path, target: Path, progress: Progress = lambda done, total: None) -> Imported:
    """Make the database `target` from the export `source`. Raises ImportRefused or LedgerError; then there is no
    target.
    """
    if target.exists() and target.stat().st_size:
        raise ImportRefused(f"{target} exists already: import into a new file with --db")
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with translated(target):
            try:
                file = source.open("rb")
            except OSError as error:
                raise ImportRefused(f"{source} cannot be read: {error.strerror or error}") from error
            with file, closing(connect(draft, read_only=False)) as connection:
                result = _load(file, connection, progress)
            _sync(draft)
            os.replace(draft, target)
    finally:
        for suffix in ("", "-journal"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    return result


def _load(file: IO[bytes], connection: sqlite3.Connection, progress: Progress) -> Imported:
    lines = _lines(file)
    header = _take(next(lines, {}), "header")
    if header.get("format") != FORMAT:
        raise ImportRefused("the file is no export of a Pellucid log (its first line is no header)")
    version, size = header.get("schema_version"), header.get("size")
    if not isinstance(version, int) or not 1 <= version <= migrations.newest_version():
        raise ImportRefused(f"the export has schema {version!r}, which this Pellucid does not know: update it")
    state = _State()
    with bulk.loading(connection):
        migrations.migrate(as_database(connection), version)
        with bulk.unguarded(connection):
            footer = _records(lines, connection, state, size if isinstance(size, int) else 0, progress)
            _finish(connection, state, header, footer)
        bulk.rebuild(connection)
    return state.result


def _records(
    lines: Iterator[dict[str, Any]], connection: sqlite3.Connection, state: _State, size: int, progress: Progress
) -> dict[str, Any]:
    """Insert every record; the footer is what follows the last one."""
    rows: list[tuple[int, str, bytes, bytes]] = []
    parts: list[tuple[int, str, str, bytes, bytes]] = []
    for entry in lines:
        if "footer" in entry:
            bulk.insert(connection, rows, parts)
            if next(lines, None) is not None:
                raise ImportRefused("there is something after the footer of the export")
            return _take(entry, "footer")
        rows.append(_record(entry, state, parts))
        if len(rows) >= _BATCH:
            bulk.insert(connection, rows, parts)
            rows, parts = [], []
            progress(state.tree.size, max(size, state.tree.size))
    raise ImportRefused("the export is cut off: it has no footer")


def _record(entry: dict[str, Any], state: _State, parts: list[Any]) -> tuple[int, str, bytes, bytes]:
    seq = state.tree.size + 1
    text, kept = entry.get("record"), entry.get("content")
    if entry.get("seq") != seq or not isinstance(text, str) or not isinstance(kept, dict):
        raise ImportRefused(f"record {seq} of the export is missing, or out of order")
    try:
        record = canonical.decode(text)
        leaf = leaf_hash(text.encode())
        vouched = record.get("content", {})
        if record["seq"] != seq or not isinstance(record["kind"], str) or not isinstance(record["ts"], int):
            raise ValueError("it has another number, or no kind or time")
        for part, value in kept.items():
            body = value["text"].encode() if "text" in value else base64.b64decode(value["base64"], validate=True)
            codec, salt = str(value["codec"]), bytes.fromhex(value["salt"])
            if commit(seq, part, codec, salt, body).hex() != vouched.get(part):
                raise HashMismatch(f"the {part} of record {seq} is not the one that was logged: nothing was imported")
            parts.append((seq, part, codec, salt, body))
        state.missing |= dict.fromkeys((seq, part) for part in vouched if part not in kept)
        if record["kind"] == "redact":
            state.redacted |= {(int(at), str(part)): seq for at, part in record["erases"]}
        bulk.probe(record)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ImportRefused(f"record {seq} of the export cannot be understood ({error}): nothing was imported") from error
    state.link = link_hash(state.link, leaf)
    state.tree.add(leaf)
    state.result.contents += len(kept)
    return seq, text, leaf, state.link


def _finish(connection: sqlite3.Connection, state: _State, header: dict[str, Any], footer: dict[str, Any]) -> None:
    size, root = state.tree.size, state.tree.root()
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
    except (KeyError, TypeError, ValueError, sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
        raise ImportRefused(f"the footer of the export cannot be understood ({error}): nothing was imported") from error
    result = state.result
    result.log, result.size, result.root, result.erased = str(header["log"]), size, root.hex(), len(state.missing)


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise ImportRefused(f"line {number} is too long")
        try:
            value = json.loads(line, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
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


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
