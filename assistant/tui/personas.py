"""Personas:
who the assistant is to be, one file each in `data/personas/`: a system prompt, how to sample, which policy.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from assistant.errors import UsageError
from assistant.turn import Sampling
from safety.resources import data_path

_FIELDS = {"policy", "sampling", "zh", "en"}
_TEXTS = {"name", "about", "system"}


@dataclass(frozen=True, slots=True)
class Persona:
    """One way to answer."""

    id: str
    policy: str
    sampling: Mapping[str, Any]
    texts: Mapping[str, Mapping[str, str]]
    """Per language: name, about, system."""

    def name(self, language: str) -> str:
        """What it is called."""
        return self.texts[language]["name"]

    def about(self, language: str) -> str:
        """What it is for, in one sentence."""
        return self.texts[language]["about"]

    def system(self, language: str) -> str:
        """The system prompt."""
        return self.texts[language]["system"]


def read(path: Path) -> Persona:
    """The persona in a file. Raises UsageError naming what is wrong in it."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the persona {path.name}: {error}") from error
    if unknown := set(table) - _FIELDS:
        raise UsageError(f"{path.name}: there is no field {min(unknown)!r} in a persona")
    sampling = table.get("sampling", {})
    if unknown := set(sampling) - {f.name for f in fields(Sampling)}:
        raise UsageError(f"{path.name}: there is no sampling parameter {min(unknown)!r}")
    Sampling(**sampling)  # refuses impossible values
    for language in ("zh", "en"):
        if set(table.get(language, {})) != _TEXTS:
            raise UsageError(f"{path.name}: [{language}] must have exactly {', '.join(sorted(_TEXTS))}")
    return Persona(path.stem, str(table.get("policy", "balanced")), sampling, {k: table[k] for k in ("zh", "en")})


def of_system(system: str) -> Persona | None:
    """The persona that answers under this system prompt, in whichever language; None when it is nobody's."""
    return next((persona for persona in read_all() if system and system in (persona.system("zh"), persona.system("en"))), None)


def read_all() -> list[Persona]:
    """All personas, the general one first."""
    found = [read(path) for path in sorted(data_path("personas").glob("*.toml"))]
    return sorted(found, key=lambda persona: (persona.id != "general", persona.id))
