"""From settings to a loaded engine and guard, with errors a user can act on. Imports torch only inside its functions."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant import paths
from assistant.errors import ModelError, SafetyUnavailable, UsageError
from assistant.lm import catalog, hub, pull
from assistant.settings import Settings
from safety.resources import data_path

if TYPE_CHECKING:
    from assistant import engines
    from assistant.lm.engine import Engine
    from assistant.lm.kv_cache import KVCache
    from assistant.lm.lora import Adapter
    from assistant.lm.transformer import Transformer
    from safety.guard import Guard

Progress = Callable[[str, float | None], None]
RETRY_SECONDS = 3600.0
ADAPTER = "adapter.json"
"""What a folder with an adapter has, and a folder with a model has not."""
LSTM = "pellucid_lstm"
"""The kind of model that the recurrent baseline's config.json names."""


def model_file(name: str, progress: Progress) -> tuple[Path, catalog.Entry | None]:
    """The file of a catalogue name or path; a catalogue model that is missing is fetched. Raises ModelError."""
    if hub.is_name(name):
        if not (path := hub.folder(name)).exists():
            raise ModelError(f"{name} has not been fetched: run `pellucid models pull {name}`")
        return path, None
    if catalog.looks_like_path(name):
        path = Path(name).expanduser()
        if not path.exists():
            raise ModelError(f"there is no model file {path}: check the path, or see `pellucid models list`")
        return path, None
    entry = catalog.find(name)
    return pull.pull(entry, progress), entry


def load_any_engine(settings: Settings, progress: Progress) -> engines.Engine:
    """The engine that the settings ask for, here or on a server. Raises ModelError or UsageError."""
    if settings.engine == "local":
        return load_engine(settings, progress)
    try:
        from assistant.served.engine import ServedEngine
    except ImportError as error:
        raise UsageError("a served model needs an extra: pip install 'pellucid[served]'") from error
    return ServedEngine.connect(
        settings.base_url, settings.model, timeout=settings.server_timeout, retries=settings.server_retries,
        context_length=settings.context, progress=progress,
    )  # fmt: skip


def load_engine(settings: Settings, progress: Progress) -> Engine:
    """The local engine that the settings ask for. Raises ModelError, also where they name a server, or UsageError."""
    if settings.engine != "local":
        raise ModelError("a served model shows nothing of its inside: use --engine local for this")
    path, entry, name, adapters = _parts(settings.model, progress)
    from assistant.lm import parallel
    from assistant.lm.engine import Engine, pick_device

    parallel.announce(asdict(settings))

    dtype = settings.dtype
    if entry and entry.dtype and dtype == "auto" and pick_device(settings.device).type == "cpu":
        dtype = entry.dtype
    engine = Engine.load(
        path,
        name=name,
        device=settings.device,
        dtype=dtype,
        thread_count=settings.threads,
        context_length=settings.context,
        watts_per_core=settings.watts_per_core,
        languages=entry.languages if entry else None,
        chat_format=settings.chat_format if entry is None or not entry.chat else entry.chat_format,
        packed_folder=paths.cache_dir() / "packed",
        adapters=adapters,
        progress=progress,
    )
    attach_probe(engine, progress)
    return engine


@contextlib.contextmanager
def together() -> Iterator[bool]:
    """Around a command that `torchrun` may have started several times, to share one model: True in the process that is to run it. The
    others load the same model and compute their part until the first one ends.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from assistant.lm import threads as threads  # before torch
    from assistant.lm import parallel  # isort: skip

    def follower(settings: dict[str, Any]) -> tuple[Transformer, KVCache]:
        engine = load_engine(Settings(**settings), lambda what, fraction: None)
        return engine.model, engine.cache

    with parallel.together(follower) as first:
        yield first


def attach_probe(engine: Engine, progress: Progress) -> None:
    """Let the probe of this very model, the user's own before the shipped one, watch its replies; without one nothing does. A probe
    that cannot be read is reported and left out: it informs, it does not decide.
    """
    from safety.probe import Probe, ProbeError

    for folder in (probe_folder(), data_path("safety")):
        for path in sorted(folder.glob("probe*.npz")):
            try:
                probe = Probe.load(path)
            except ProbeError as error:
                progress(str(error), None)
                continue
            if probe.model == engine.info.sha256 and len(probe.weight) == engine.model.config.width:
                engine.watch = lambda state, probe=probe: round(probe.risk(state.float().cpu().numpy()), 4)
                return


def probe_folder() -> Path:
    """Where probes that the user trained are kept."""
    return paths.data_dir() / "probes"


def _parts(name: str, progress: Progress) -> tuple[Path, catalog.Entry | None, str, list[Adapter]]:
    """The file of the base that `name` stands for, its entry, what the model is called, and the adapters on it, first to last."""
    path, entry = model_file(name, progress)
    if entry is None and is_lstm(path):
        raise ModelError(f"{path.name} is an LSTM, the baseline that only continues text: compare it with `pellucid evaluate lm`")
    if entry is not None and isinstance(entry.source, catalog.Tuned):
        from assistant.lm import lora

        try:
            folder = data_path(*entry.source.adapter.split("/"))
        except FileNotFoundError as error:
            raise ModelError(str(error)) from error
        return path, entry, entry.name, [lora.read(folder)]
    if not (path / ADAPTER).is_file():
        return path, entry, entry.name if entry else path.resolve().name if path.is_dir() else path.stem, []
    from assistant.lm import lora

    adapter = lora.read(path)
    if looks_like_adapter(adapter.base):
        raise ModelError(f"{path.name} is an adapter on another adapter: merge the first with `pellucid finetune --merge`")
    path, entry, called, below = _parts(adapter.base, progress)
    return path, entry, f"{called}+{adapter.name}", [*below, adapter]


def is_lstm(folder: Path) -> bool:
    """Whether there is an LSTM of ours in a folder. It is no model of the engine."""
    try:
        return bool(json.loads((folder / "config.json").read_text("utf-8")).get("model_type") == LSTM)
    except (OSError, ValueError, AttributeError):
        return False


def looks_like_adapter(name: str) -> bool:
    """Whether this is the folder of an adapter rather than of a model."""
    return (Path(name).expanduser() / ADAPTER).is_file()


def load_guard(settings: Settings, progress: Progress) -> Guard:
    """The guard that the settings ask for. Raises SafetyUnavailable: without a guard nothing is generated."""
    if settings.guard == "off":
        from safety.unguarded import Unguarded

        return Unguarded()
    encoder = guard_encoder(settings, progress)
    progress("loading the guard", None)
    from safety.guard import Guard, SafetyError

    try:
        return Guard.load(settings.policy, user_rules=_user_rules(), encoder=encoder)
    except SafetyError as error:
        raise SafetyUnavailable(str(error)) from error


def _user_rules() -> Path | None:
    """The folder of the person's own rules, made when it is missing so that a rule put there later is seen; None where it cannot be."""
    folder = paths.data_dir() / "rules"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:  # read-only: nothing can be put there either
        return folder if folder.exists() else None
    return folder


def guard_encoder(settings: Settings, progress: Progress) -> Path | None:
    """The file of the guard's encoder, fetched at first use; None when the settings do without it or it cannot be fetched:
    then the guard judges by rules and n-grams alone, and says so. A failed try is not repeated within the hour.
    """
    entry = catalog.GUARD_ENCODER
    if settings.guard == "ngrams":
        return None
    if entry.path.exists():
        return entry.path
    failed = entry.path.with_suffix(".failed")
    if failed.exists() and time.time() - failed.stat().st_mtime < RETRY_SECONDS:
        progress(failed.read_text("utf-8"), None)
        return None
    try:
        path = pull.pull(entry, progress)
    except ModelError as error:
        message = f"the guard works without its encoder, by rules and n-grams alone: {error}"
        with contextlib.suppress(OSError):  # the folder may be what is wrong
            failed.write_text(message, "utf-8")
        progress(message, None)
        return None
    failed.unlink(missing_ok=True)
    return path
