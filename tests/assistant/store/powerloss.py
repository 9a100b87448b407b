"""What a disk may hold after the power failed: recorded system calls of a real program, replayed into files.

`record` runs a program under strace. `State` holds the files as they would be after the first n calls: what was synced is
there; of what was not, nothing, everything, a random part, or torn sectors. A created or deleted name counts as durable once
its folder was synced (a created one also with its own file).
"""

from __future__ import annotations

import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["write", "truncate", "sync", "create", "delete", "ack"]
Survivors = Literal["none", "all", "some", "torn"]
SECTOR = 512
CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat,close"
_CALL = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\w+)")
_HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_OPEN_FILE = re.compile(r"^\d+<((?:\\x[0-9a-f]{2})+|[^>]*)>")


@dataclass(frozen=True, slots=True)
class Op:
    """One recorded call. `file` is a name in the folder, `.` the folder itself; an acknowledgement has its text in `data`."""

    kind: Kind
    file: str = ""
    offset: int = 0
    data: bytes = b""


def record(command: list[str], folder: Path, trace: Path) -> list[Op]:
    """Run a program under strace and return what it did to the files in `folder` and what it acknowledged on stderr."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    subprocess.run([*strace, *command], check=True, stderr=subprocess.DEVNULL)
    ops: list[Op] = []
    for line in trace.read_text("ascii", "replace").splitlines():
        match = _CALL.match(line)
        if match and not match[3].startswith("-") and (op := _op(match[1], match[2], folder)):
            ops.append(op)
    return ops


def _op(call: str, arguments: str, folder: Path) -> Op | None:
    opened = _OPEN_FILE.match(arguments)
    path = Path(_text(opened[1])) if opened else None
    if call in ("write", "pwrite64"):
        quoted = _HEX.search(arguments)
        data = _bytes(quoted[1]) if quoted else b""
        if data.startswith(b"ACK "):
            return Op("ack", data=data[4:].strip())
        if path is None or path.parent != folder:
            return None
        return Op("write", path.name, int(arguments.rsplit(",", 1)[1]) if call == "pwrite64" else 0, data)
    if call in ("fsync", "fdatasync") and path is not None:
        return Op("sync", "." if path == folder else path.name) if folder in (path, path.parent) else None
    if call == "ftruncate" and path is not None and path.parent == folder:
        return Op("truncate", path.name, int(arguments.rsplit(",", 1)[1]))
    if call in ("unlink", "unlinkat") or (call == "openat" and "O_CREAT" in arguments):
        named = _HEX.search(arguments)
        target = Path(_text(named[1])) if named else None
        if target is not None and target.parent == folder:
            return Op("delete" if call.startswith("unlink") else "create", target.name)
    return None


def rebuild(ops: list[Op], survivors: Survivors, rng: random.Random) -> dict[str, bytearray]:
    """The files after a power failure behind the last of `ops`."""
    synced = {op.file: i for i, op in enumerate(ops) if op.kind == "sync"}
    files: dict[str, bytearray] = {}
    for i, op in enumerate(ops):
        if op.kind in ("ack", "sync"):
            continue
        durable = i < synced.get(op.file, -1)
        if op.kind in ("create", "delete"):
            durable = i < synced.get(".", -1) or (op.kind == "create" and durable)
        if durable or survivors == "all":
            _apply(files, op)
        elif survivors == "torn" and op.kind == "write":
            for start in range(0, len(op.data), SECTOR):
                if rng.random() < 0.5:
                    _apply(files, Op("write", op.file, op.offset + start, op.data[start : start + SECTOR]))
        elif survivors != "none" and rng.random() < 0.5:
            _apply(files, op)
    return files


def _apply(files: dict[str, bytearray], op: Op) -> None:
    if op.kind == "delete":
        files.pop(op.file, None)
        return
    content = files.setdefault(op.file, bytearray())
    end = op.offset + len(op.data)
    if op.kind == "write":
        content.extend(bytes(max(0, end - len(content))))
        content[op.offset : end] = op.data
    elif op.kind == "truncate":
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _text(value: str) -> str:
    return _bytes(value).decode("utf-8", "replace") if value.startswith("\\x") else value
