"""The settings and where they come from: defaults < configuration file < environment (`PELLUCID_…`) < flags."""

from __future__ import annotations

import locale
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from assistant import paths
from assistant.errors import UsageError
from assistant.turn import Sampling

ENVIRONMENT_PREFIX = "PELLUCID_"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Every field can be set in config.toml, as PELLUCID_<NAME>, and most as a flag."""

    model: str = "smollm2-135m"
    """A catalogue name, a .gguf file or a model folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps. `auto` takes CUDA, then MPS, then the CPU."""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16, int8, int4, int4+bfloat16: the numbers the model computes with."""
    chat_format: str = ""
    """How messages are laid out for a model of your own whose chat template is unknown: chatml, llama3, gemma; empty: by the template."""
    threads: int = 0
    """CPU threads for the model; 0 takes as many as there are cores."""
    policy: str = "balanced"
    """The safety policy: strict, balanced, open."""
    guard: str = "full"
    """full: the guard reads with its encoder (fetched once, 72 MB); ngrams: without it, quicker and blinder."""
    language: str = "auto"
    """Language of the interface: zh, en, or auto (from the locale)."""
    system: str = "You are a helpful AI assistant."
    """The system prompt of new conversations; empty takes the one the model was trained with."""
    temperature: float = 0.2
    """Randomness of the reply; 0 always takes the likeliest token."""
    top_k: int = 40
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 0.9
    """Keep the likeliest tokens up to this total probability."""
    min_p: float = 0.05
    """Keep tokens at least this fraction as likely as the likeliest."""
    repetition_penalty: float = 1.05
    """Penalty on tokens already written; 1 is none."""
    max_tokens: int = 512
    """The longest reply, in tokens."""
    context: int = 2048
    """The longest prompt plus reply, in tokens; never more than the model was trained for."""
    theme: str = "pellucid-dark"
    """Theme of the terminal application."""
    database: str = ""
    """Path of the ledger; empty takes the default place."""
    watts_per_core: float = 5.0
    """Assumed power of one busy core, for energy estimates where no meter can be read."""
    engine: str = "local"
    """local: the model runs here; openai: a server that speaks the OpenAI protocol runs it (base_url, and model for its name there)."""
    base_url: str = ""
    """The server's address for engine = openai, as http://127.0.0.1:8000/v1. Its key comes from PELLUCID_API_KEY or the keyring."""
    server_timeout: float = 60.0
    """Seconds that a server may say nothing before it is given up."""
    server_retries: int = 3
    """How often a server that fails before its reply begins is asked again."""

    def __post_init__(self) -> None:
        self.sampling()  # refuses impossible values
        if self.language not in ("auto", "zh", "en"):
            raise UsageError(f"language must be auto, zh or en, not {self.language!r}")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16", "int8", "int4", "int4+bfloat16"):
            raise UsageError(f"dtype must be auto, float32, bfloat16, float16, int8, int4 or int4+bfloat16, not {self.dtype!r}")
        if self.guard not in ("full", "ngrams", "off"):
            raise UsageError(f"guard must be full or ngrams, not {self.guard!r}")
        if self.engine not in ("local", "openai"):
            raise UsageError(f"engine must be local or openai, not {self.engine!r}")
        if not 0.1 <= self.server_timeout <= 86_400:
            raise UsageError(f"server_timeout must be between 0.1 and 86400 seconds, not {self.server_timeout}")
        if not 0 <= self.server_retries <= 20:
            raise UsageError(f"server_retries must be between 0 and 20, not {self.server_retries}")
        if self.threads < 0:
            raise UsageError("threads must be 0 or more")
        if not 64 <= self.context <= 1_000_000:
            raise UsageError(f"context must be between 64 and 1000000 tokens, not {self.context}")
        if not 0 < self.watts_per_core < 1000:
            raise UsageError("watts_per_core must be above 0 and below 1000")

    def sampling(self, seed: int | None = None, stop: tuple[str, ...] = ()) -> Sampling:
        """The sampling that these settings ask for."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty, seed, self.max_tokens, stop)

    @property
    def interface_language(self) -> str:
        """`zh` or `en`: the setting, or the locale's language when it is `auto`."""
        if self.language != "auto":
            return self.language
        name = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
        return "zh" if (name or locale.getlocale()[0] or "").lower().startswith(("zh", "chinese")) else "en"

    @property
    def database_path(self) -> Path:
        """Where the ledger is."""
        return Path(self.database).expanduser() if self.database else paths.database_file()


def field_help() -> dict[str, str]:
    """The sentence that explains each setting, by name (read from the docstrings under the fields)."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    out: dict[str, str] = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            out[statement.target.id] = str(following.value.value)
    return out


def convert(name: str, value: object, source: str) -> Any:
    """`value` as the type of setting `name`. Raises UsageError naming `source` when that cannot be."""
    kinds: dict[str, type] = {f.name: type(f.default) for f in fields(Settings)}
    if name not in kinds:
        import difflib

        close = difflib.get_close_matches(name, kinds, 1)
        raise UsageError(f"{source}: there is no setting {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    kind = kinds[name]
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except ValueError:
        raise UsageError(f"{source}: {name} must be a {kind.__name__}, not {value!r}") from None


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a configuration file; empty when there is none. Raises UsageError naming file and problem."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration file {path}: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return {name: convert(name, value, str(path)) for name, value in table.items()}


def load(flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force: defaults, then file, then environment, then the flags that are not None."""
    values = read_file(paths.config_file())
    for f in fields(Settings):
        variable = ENVIRONMENT_PREFIX + f.name.upper()
        if os.environ.get(variable):
            values[f.name] = convert(f.name, os.environ[variable], f"environment variable {variable}")
    if values.get("guard") == "off":  # never by accident, never for good
        raise UsageError("the guard can only be switched off for one run, with the flag --unsafe-no-moderation")
    settings = Settings(**values)
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    return replace(settings, **given) if given else settings
