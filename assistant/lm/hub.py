"""Models of the Hugging Face hub by name, ORGANISATION/NAME: the files of a folder that `directory.py` reads, and nothing else.

The hub states the hash of every file: SHA-256 of large ones, Git's blob hash of small ones. Each file is compared with it, and only a
folder that is whole gets the model's name. Pickled weights are not fetched. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from assistant import paths
from assistant.errors import ModelError
from assistant.lm.transfer import CHUNK, receive

Progress = Callable[[str, float | None], None]

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_SMALL = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "model.safetensors.index.json", "LICENSE", "LICENSE.txt",
})  # fmt: skip
_WEIGHTS = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors", re.ASCII)
_NOTE = "pellucid.json"
_HINTS = {
    401: "it does not exist, or wants a login: set HF_TOKEN",
    403: "accept its terms on its page, then set HF_TOKEN",
    404: "check the name",
}
_LISTING_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    sha256: str
    """Of a large file; empty for a small one, which has a Git hash."""
    git: str

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is this one."""
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as handle:
            while block := handle.read(CHUNK):
                digest.update(block)
        return path.stat().st_size == self.size and digest.hexdigest() == (self.sha256 or self.git)


def is_name(name: str) -> bool:
    """Whether `name` is one of the hub's: ORGANISATION/NAME, and nothing of that name lies here."""
    return _NAME.fullmatch(name) is not None and not name.endswith(".gguf") and not Path(name).exists()


def folder(name: str) -> Path:
    """Where the model ORGANISATION/NAME is, or would be."""
    return paths.models_dir() / name.replace("/", "--")


def fetched() -> list[tuple[str, Path]]:
    """(name, folder) of every model of the hub that is here."""
    return [(str(_note(path)["name"]), path) for path in sorted(paths.models_dir().glob("*--*")) if (path / _NOTE).is_file()]


def remove(name: str) -> bool:
    """Delete a fetched model and what was left of an attempt; False when there was neither."""
    found = False
    for path in (folder(name), _staging(name)):
        if path.is_dir():
            shutil.rmtree(path)
            found = True
    return found


def pull(name: str, progress: Progress = lambda what, fraction: None, *, revision: str = "main", force: bool = False) -> Path:
    """Fetch a model unless it is there already; returns its folder. An attempt that was cut short is gone on with.

    Raises ModelError that says what to do. `HF_ENDPOINT` names another server, `HF_TOKEN` opens models that want a login.
    """
    target, staging = folder(name), _staging(name)
    if target.exists() and not force:
        return target
    about = _listing(name, revision)
    files = _wanted(name, about)
    commit, total = str(about["sha"]), sum(file.size for file in files)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        here = {path.name: path.stat().st_size for path in staging.iterdir() if path.is_file()}
        missing, free = total - sum(here.values()), shutil.disk_usage(staging).free
        if missing > free:
            raise ModelError(f"{name} needs {missing / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free: make room or set PELLUCID_HOME")
        done = 0
        for file in files:
            path = staging / file.name
            if not (path.is_file() and file.is_at(path)):
                _fetch(name, commit, file, path, lambda have, done=done: progress(f"fetching {name}", (done + have) / total))  # type: ignore[misc]
            done += file.size
        hashes = {file.name: file.sha256 or file.git for file in files}
        note = {"name": name, "revision": commit, "licence": _licence(about), "files": hashes}
        (staging / _NOTE).write_text(json.dumps(note))
        for stray in {path.name for path in staging.iterdir()} - {file.name for file in files} - {_NOTE}:
            (staging / stray).unlink()  # of another revision
        if target.exists():
            shutil.rmtree(target)
        os.replace(staging, target)
    except OSError as error:
        raise ModelError(
            f"cannot store {name} in {paths.models_dir()}: {error.strerror or error}; make room or set PELLUCID_HOME to another folder"
        ) from error
    return target


def _listing(name: str, revision: str) -> Mapping[str, Any]:
    """What the hub says of a repository: its commit (`sha`) and its files with sizes and hashes (`siblings`)."""
    listing = _request(f"api/models/{name}/revision/{quote(revision, safe='')}?blobs=true")
    with _explained(name), urllib.request.urlopen(listing, timeout=30) as answer:
        text = answer.read(_LISTING_BYTES)
    try:
        about = json.loads(text)
        if not re.fullmatch("[0-9a-f]{40}", about["sha"]) or not isinstance(about["siblings"], list):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"the server's list of the files of {name} cannot be understood: check HF_ENDPOINT") from None
    return about  # type: ignore[no-any-return]


def _wanted(name: str, about: Mapping[str, Any]) -> list[_File]:
    """The files of the list that make up a model. Raises ModelError when it is none that can be used."""
    files: list[_File] = []
    others: list[str] = []
    for one in about["siblings"]:
        try:
            path = str(one["rfilename"])
            if path not in _SMALL and not _WEIGHTS.fullmatch(path):
                others.append(path)
                continue
            large = one.get("lfs") or {}
            files.append(_File(path, int(large.get("size", one["size"])), str(large.get("sha256", "")), str(one.get("blobId", ""))))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ModelError(f"the server's list of the files of {name} cannot be understood: check HF_ENDPOINT") from None
    if not any(_WEIGHTS.fullmatch(file.name) for file in files):
        if gguf := next((other for other in others if other.endswith(".gguf")), ""):
            raise ModelError(f"{name} has only .gguf files: download one of them, for example {gguf}, and give its path with --model")
        raise ModelError(f"{name} has no model.safetensors: pickled weights are never opened, so use another edition of this model")
    for needed in ("config.json", "tokenizer.json"):
        if not any(file.name == needed for file in files):
            raise ModelError(f"{name} has no {needed}: use another edition of this model")
    for file in files:
        if not re.fullmatch("[0-9a-f]{64}", file.sha256) and (file.sha256 or not re.fullmatch("[0-9a-f]{40}", file.git)):
            raise ModelError(f"the server did not state a hash of {file.name}, so it cannot be trusted: check HF_ENDPOINT")
    return files


def _fetch(name: str, commit: str, file: _File, path: Path, report: Callable[[int], None]) -> None:
    """Bring one file whole to `path`, going on with what is there of it."""
    if path.exists() and path.stat().st_size >= file.size:  # it was compared before, and is another
        path.unlink()
    with _explained(name):
        request = _request(f"{name}/resolve/{commit}/{quote(file.name)}")
        _, have, _ = receive(request, path, lambda have, total: report(min(have, file.size)), most=file.size)
    if have < file.size:
        raise ModelError(f"{file.name} of {name} arrived incomplete ({have} of {file.size} bytes): fetch it again to go on")
    if not file.is_at(path):
        path.unlink()
        raise ModelError(f"{file.name} of {name} is not the file it should be (its hash differs): fetch it again")


def _request(place: str) -> urllib.request.Request:
    request = urllib.request.Request(f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{place}")
    if token := os.environ.get("HF_TOKEN"):
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # the storage behind the hub must not see it
    return request


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as a sentence."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise ModelError(f"cannot fetch {name} (the server answered {error.code}): {_HINTS.get(error.code, 'try again')}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise ModelError(
            f"cannot fetch {name} ({getattr(error, 'reason', error)}): check the network and fetch it again to go on"
        ) from error


def _licence(about: Mapping[str, Any]) -> str:
    card = about.get("cardData")
    return str(card.get("license") or "unknown") if isinstance(card, dict) else "unknown"


def _staging(name: str) -> Path:
    return paths.models_dir() / f".fetch-{name.replace('/', '--')}"


def _note(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads((path / _NOTE).read_text("utf-8")))
    except (OSError, ValueError):
        return {"name": path.name.replace("--", "/", 1)}
