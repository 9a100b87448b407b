"""What is done about what was found: profiles in data/safety/policies, one TOML file each; one may extend another."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety.resources import data_path
from safety.rules import CATEGORIES, Role
from safety.verdict import Action

DETECTORS = (
    *("email", "phone", "resident_id", "social_credit", "iban", "card", "ssn", "plate", "passport", "ip", "address"),
    *("secret", "link", "hidden", "leak"),
)


class PolicyError(Exception):
    """A policy that does not exist or cannot be used; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """From which score a category is cautioned and from which it is blocked; None: never."""

    caution: float | None
    block: float | None

    def action(self, score: float) -> Action:
        """Allow, caution or block."""
        if self.block is not None and score >= self.block:
            return Action.BLOCK
        return Action.CAUTION if self.caution is not None and score >= self.caution else Action.ALLOW


@dataclass(frozen=True, slots=True)
class Policy:
    """One profile. Tiers and detectors are complete: every category and every kind has an entry for both roles."""

    name: str
    max_characters: int
    description: Mapping[str, str]
    tiers: Mapping[tuple[Role, str], Tiers]
    detectors: Mapping[tuple[Role, str], Action]
    files: tuple[Path, ...]
    show_anyway: frozenset[str] = frozenset()
    """A reply that was withdrawn for nothing but these categories may be shown to the person who insists."""


def names() -> list[str]:
    """The profiles that are shipped."""
    return sorted(path.stem for path in data_path("safety", "policies").glob("*.toml"))


def load_policy(name: str) -> Policy:
    """A shipped profile by name, or any policy file by its path. Raises PolicyError."""
    data, files = _read(name, ())
    tiers: dict[tuple[Role, str], Tiers] = {}
    detectors: dict[tuple[Role, str], Action] = {}
    roles: tuple[Role, Role] = ("prompt", "response")
    for role in roles:
        section = data.get(role, {})
        categories, actions = section.get("categories", {}), section.get("detectors", {})
        for unknown in set(categories) - {"default", *CATEGORIES}:
            raise PolicyError(f"{files[0]}: [{role}.categories] names {unknown!r}; use one of {', '.join(CATEGORIES)}")
        for unknown in set(actions) - {"default", *DETECTORS}:
            raise PolicyError(f"{files[0]}: [{role}.detectors] names {unknown!r}; use one of {', '.join(DETECTORS)}")
        for category in CATEGORIES:
            entry = categories.get(category, categories.get("default"))
            tiers[role, category] = _tiers(entry, f"{files[0]}: [{role}.categories] {category}")
        for kind in DETECTORS:
            word = actions.get(kind, actions.get("default"))
            if word not in list(Action):
                raise PolicyError(f"{files[0]}: [{role}.detectors] {kind} is {word!r}; use allow, caution, redact or block")
            detectors[role, kind] = Action(word)
    limit = data.get("max_characters")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise PolicyError(f"{files[0]}: max_characters must be a whole number above 0; correct it")
    show = data.get("show_anyway", [])
    if not isinstance(show, list) or not all(name in CATEGORIES for name in show):
        raise PolicyError(f"{files[0]}: show_anyway must be a list of categories ({', '.join(CATEGORIES)}); correct it")
    return Policy(Path(name).stem, limit, data.get("description", {}), tiers, detectors, files, frozenset(show))


def _tiers(entry: Any, where: str) -> Tiers:
    if not isinstance(entry, dict) or set(entry) - {"caution", "block"}:
        raise PolicyError(f"{where}: must be a table with caution and block; correct it")
    for value in entry.values():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            raise PolicyError(f"{where}: thresholds lie between 0 and 1, not {value!r}; correct it")
    return Tiers(entry.get("caution"), entry.get("block"))


def _read(name: str, seen: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The file's tables laid over those of the file that it extends, and the files that were read."""
    path = Path(name) if name.endswith(".toml") else data_path("safety", "policies") / f"{name}.toml"
    if path in seen:
        raise PolicyError(f"{path}: the policy extends itself; remove the circle")
    if not path.is_file():
        raise PolicyError(f"there is no policy {name!r}: choose one of {', '.join(names())} or give the path of a .toml file")
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path}: the policy cannot be read: {error}; correct it") from error
    if "extends" not in data:
        return data, (path,)
    below, files = _read(str(data.pop("extends")), (*seen, path))
    return _over(below, data), (path, *files)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables merge, single categories replace; a new default also replaces what the lower file only inherited from
    its default."""
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(key), dict) and not {"caution", "block"} & set(value)
        merged[key] = _over(below[key], value) if nested else value
    return merged
