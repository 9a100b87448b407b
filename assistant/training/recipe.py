"""What a run is made of: sizes, numbers, sources. From a TOML file (a preset is one that is shipped) and flags, which win."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from assistant.errors import UsageError
from assistant.lm.train import Plan
from assistant.training.corpus import Source
from safety.resources import data_path

Made = TypeVar("Made", bound="Sizes | Plan | Recipe | Source")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of the model to be trained."""

    arch: Literal["transformer", "lstm"] = "transformer"
    width: int = 192
    layers: int = 4
    heads: int = 3
    kv_heads: int = 0
    """0: as many as heads."""
    ffn: int = 0
    """0: 8/3 of the width, rounded up to a multiple of 64."""
    hidden: int = 0
    """Of an LSTM; 0: so that it has as many parameters as the Transformer of these sizes."""
    dropout: float = 0.0
    """Of an LSTM."""
    vocabulary: int = 4096
    untied: bool = False
    """A Transformer with an output matrix of its own."""

    def __post_init__(self) -> None:
        if self.arch not in ("transformer", "lstm"):
            raise UsageError(f"arch must be transformer or lstm, not {self.arch!r}")
        if min(self.width, self.layers, self.heads, self.vocabulary) < 1 or min(self.kv_heads, self.ffn, self.hidden) < 0:
            raise UsageError("every size of a model must be at least 1")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a run gives, but the program itself."""

    sizes: Sizes
    plan: Plan
    sources: tuple[Source, ...]
    validation: float = 0.02
    """The part of the documents that is never learnt from."""
    prompts: tuple[str, ...] = ()
    """Continued while it trains, to be looked at."""
    chats: tuple[str, ...] = ()
    """Answered while it trains."""
    languages: tuple[str, ...] = ()
    scrub: bool = True
    """Replace personal data and secrets by placeholders."""
    deduplicate: bool = True
    tokenizer: Path | None = None
    """A tokenizer.json to use instead of training one."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("there is nothing to learn from: give text files, --config or --preset")
        if not 0 <= self.validation <= 0.5:
            raise UsageError(f"validation must be between 0 and 0.5, not {self.validation}")


def presets() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in data_path("corpus").glob("*.toml"))


def preset(name: str) -> Path:
    """The file of a shipped recipe. Raises UsageError for a name that is none."""
    if name not in presets():
        raise UsageError(f"there is no preset {name!r}: there are {', '.join(presets())}")
    return data_path("corpus", f"{name}.toml")


def read(path: Path | None, given: Mapping[str, Any], sources: tuple[Source, ...] = ()) -> Recipe:
    """The recipe of a file with the flags that were `given` (None: not given), and `sources` instead of its own where there are some.

    Raises UsageError for a file that cannot be read, a name that does not exist, or a value of a wrong type.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the recipe {path}: {error}") from error
        if unknown := set(table) - {"model", "training", "data"}:
            raise UsageError(f"{path.name}: there is no table [{sorted(unknown)[0]}]: use model, training and data")
    where = path.name if path is not None else "the flags"
    given = {name: value for name, value in given.items() if value is not None}
    known = {cls: {f.name for f in fields(cls)} for cls in (Sizes, Plan, Recipe)}
    if unknown := set(given) - set().union(*known.values()):
        raise UsageError(f"{where}: there is no {sorted(unknown)[0]!r}")
    data = dict(table.get("data", {}))
    listed = data.pop("sources", [])
    if not sources and path is not None:
        sources = tuple(_source(row, path) for row in listed)
    sizes = _made(Sizes, table.get("model", {}) | {k: v for k, v in given.items() if k in known[Sizes]}, where)
    plan = _made(Plan, table.get("training", {}) | {k: v for k, v in given.items() if k in known[Plan]}, where)
    rest = {k: tuple(v) if isinstance(v, list) else v for k, v in (data | {k: v for k, v in given.items() if k in known[Recipe]}).items()}
    return _made(Recipe, {**rest, "sizes": sizes, "plan": plan, "sources": sources}, where)


def _source(row: Any, path: Path) -> Source:
    if not isinstance(row, dict) or not isinstance(row.get("file"), str):
        raise UsageError(f"{path.name}: every source needs a file")
    row = dict(row)
    longest = row.pop("longest", (0, 0))
    source = _made(Source, {"path": path.parent / row.pop("file"), **row}, path.name)
    if not (isinstance(longest, (list, tuple)) and len(longest) == 2 and all(isinstance(n, int) for n in longest)):
        raise UsageError(f"{path.name}: longest must be two numbers of characters: Chinese, other")
    return replace(source, longest=(longest[0], longest[1]))


def _made(cls: type[Made], values: Mapping[str, Any], where: str) -> Made:
    """An object of a dataclass, each value checked against the type of its default."""
    known = {f.name: f for f in fields(cls)}
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{where}: there is no {name!r}")
        default = known[name].default
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(default, (bool, int, float, str)) and type(value) is not type(default):
            raise UsageError(f"{where}: {name} must be a {type(default).__name__}, not {value!r}")
        converted[name] = value
    return cls(**converted)
