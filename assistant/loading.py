"""From settings to a loaded engine and guard, with errors a user can act on. Imports torch only inside its functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from assistant import paths
from assistant.errors import ModelError, SafetyUnavailable
from assistant.lm import catalog, pull
from assistant.settings import Settings

if TYPE_CHECKING:
    from assistant.lm.engine import Engine
    from safety.guard import Guard

Progress = Callable[[str, float | None], None]


def model_file(name: str, progress: Progress) -> tuple[Path, catalog.Entry | None]:
    """The file of a catalogue name or path; a catalogue model that is missing is fetched. Raises ModelError."""
    if catalog.looks_like_path(name):
        path = Path(name).expanduser()
        if not path.exists():
            raise ModelError(f"there is no model file {path}: check the path, or see `pellucid models list`")
        return path, None
    entry = catalog.find(name)
    return pull.pull(entry, progress), entry


def load_engine(settings: Settings, progress: Progress) -> Engine:
    """The engine that the settings ask for. Raises ModelError or UsageError."""
    path, entry = model_file(settings.model, progress)
    from assistant.lm.engine import Engine

    return Engine.load(
        path,
        name=entry.name if entry else None,
        device=settings.device,
        dtype=settings.dtype,
        thread_count=settings.threads,
        context_length=settings.context,
        watts_per_core=settings.watts_per_core,
        languages=entry.languages if entry else None,
        chat_format=entry.chat_format if entry else "",
        progress=progress,
    )


def load_guard(settings: Settings, progress: Progress) -> Guard:
    """The guard that the settings ask for. Raises SafetyUnavailable: without a guard nothing is generated."""
    progress("loading the guard", None)
    from safety.guard import Guard, SafetyError

    user_rules = paths.data_dir() / "rules"
    try:
        return Guard.load(settings.policy, user_rules=user_rules if user_rules.exists() else None)
    except SafetyError as error:
        raise SafetyUnavailable(str(error)) from error
