"""A model in a directory, as the Hugging Face libraries keep it: config.json, one or several .safetensors files, tokenizer.json.

Everything in it is untrusted: files have limits, weights are never unpickled, names never leave the directory, the chat template is
chosen by its hash and never executed. What the numbers of config.json mean is `hf_config.py`'s concern.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from assistant.errors import ModelError
from assistant.lm import hf_config
from assistant.lm.config import Config
from assistant.lm.hashing import sha256_of_files
from assistant.lm.safetensors import SafetensorsFile
from assistant.lm.source import PICKLES, Codes, finite
from assistant.lm.tokenizer import ByteTokenizer

MAX_JSON = 32 << 20
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
READ = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", INDEX)


class Directory:
    """See `source.Source`. Raises ModelError at once when the directory is no model, or its weights are damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        self.paired = False
        self._config = self._json("config.json", required=True)
        self._tokenizer: ByteTokenizer | None = None
        self._tokenizer_config = self._json("tokenizer_config.json")
        self.files = self._open()
        self.places = {name: file for file in self.files for name in file.entries}
        self.names = hf_config.Names(self._config, self.places)
        self.template = self._template()
        stated = self._tokenizer_config.get("chat_format")
        self.chat_format = stated if isinstance(stated, str) else ""
        languages = self._config.get("languages")
        self.languages = tuple(x for x in languages if isinstance(x, str)) if isinstance(languages, list) else ()

    def _json(self, name: str, *, required: bool = False) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            if required:
                raise ModelError(f"{self.path} has no {name}: give a model folder (config.json, *.safetensors, tokenizer.json)")
            return {}
        try:
            if path.stat().st_size > MAX_JSON:
                raise ModelError(f"{self.name}: {name} is larger than any real one: fetch the model again")
            value = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, RecursionError):
            raise ModelError(f"{self.name}: {name} is not JSON: fetch the model again") from None
        if not isinstance(value, dict):
            raise ModelError(f"{self.name}: {name} is not a table: fetch the model again")
        return value

    def _open(self) -> list[SafetensorsFile]:
        """The files with weights: those of the index, or the only one."""
        if (self.path / INDEX).is_file():
            table = self._json(INDEX).get("weight_map")
            if not isinstance(table, dict) or not table:
                raise ModelError(f"{self.name}: {INDEX} names no files: fetch the model again")
            wanted = sorted({str(file) for file in table.values()})
        else:
            wanted = [WEIGHTS] if (self.path / WEIGHTS).is_file() else sorted(p.name for p in self.path.glob("*.safetensors"))
        for name in wanted:
            if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
                raise ModelError(f"{self.name}: {INDEX} names {name!r}, which is no file of weights: fetch the model again")
            if not (self.path / name).is_file():
                raise ModelError(f"{self.name}: the file {name} is missing: fetch the model again")
        if not wanted:
            pickled = next((p.name for p in sorted(self.path.iterdir()) if p.suffix in PICKLES), None)
            if pickled:
                raise ModelError(
                    f"{self.name} holds its weights as the pickle {pickled}, which can run code when it is opened: save them as safetensors"
                )
            raise ModelError(f"{self.name} has no .safetensors file: fetch the model again")
        files = [SafetensorsFile(self.path / name) for name in wanted]
        seen: set[str] = set()
        for file in files:
            if twice := seen & file.entries.keys():
                raise ModelError(f"{self.name}: tensor {min(twice)} is in two files: fetch the model again")
            seen |= file.entries.keys()
        return files

    def _template(self) -> str | None:
        path = self.path / "chat_template.jinja"
        if path.is_file() and path.stat().st_size <= MAX_JSON:
            return path.read_text("utf-8", "replace")
        template = self._tokenizer_config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def config(self) -> Config:
        """The numbers in config.json."""
        return hf_config.read(self._config, self.name)

    def tokenizer(self) -> ByteTokenizer:
        """The tokenizer in tokenizer.json, read once; ends are those of generation_config.json, config.json and tokenizer_config.json."""
        if self._tokenizer is not None:
            return self._tokenizer
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{self.name} has no tokenizer.json: save its tokenizer in that form")
        named = self._tokenizer_config.get("eos_token")
        ends: list[int | str] = []
        for value in (
            self._json("generation_config.json").get("eos_token_id"),
            self._config.get("eos_token_id"),
            named.get("content") if isinstance(named, dict) else named,
        ):
            ends += [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, int | str)]
        self._tokenizer = ByteTokenizer.from_json(path, self.config().vocab_size, ends)
        return self._tokenizer

    def begin(self) -> tuple[int, ...]:
        """What the tokenizer puts before a text."""
        return self.tokenizer().begin()

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """See `source.Source.tensor`."""
        stored = self.names.find(name)
        file = self.places.get(stored.name)
        if file is None:
            raise ModelError(f"{self.name} has no tensor {stored.name}: it is not the model it says it is")
        dense = finite(stored.name, file.tensor(stored.name))
        if stored.transposed and dense.dim() == 2:
            dense = dense.t().contiguous()
        expected = (stored.of * shape[0], *shape[1:])
        if dense.shape != expected:
            raise ModelError(f"{self.name}: tensor {stored.name} has shape {tuple(dense.shape)}, not {expected}: fetch the model again")
        dense = dense[stored.part * shape[0] : (stored.part + 1) * shape[0]]
        return dense + 1 if stored.plus_one else dense

    def can_pack(self, name: str) -> bool:
        """Never: the weights are not quantised."""
        return False

    def codes(self, name: str) -> Codes:
        """There are none. Raises ModelError."""
        raise ModelError(f"{self.name}: tensor {name} is not quantised: use --dtype auto")

    def weights(self) -> int:
        """How many numbers it holds."""
        return sum(math.prod(entry.shape) for file in self.files for entry in file.entries.values())

    def used(self) -> list[str]:
        """The files that make up the model."""
        return [name for name in READ if (self.path / name).is_file()] + [file.path.name for file in self.files]

    def sha256(self) -> str:
        """Over all files that make up the model."""
        return sha256_of_files(self.path, self.used())

    def facts(self) -> dict[str, Any]:
        """config.json, and how many tensors there are of each type."""
        types: dict[str, int] = {}
        for file in self.files:
            for entry in file.entries.values():
                types[entry.dtype] = types.get(entry.dtype, 0) + 1
        licence = self._config.get("license")
        return {
            "bytes": sum((self.path / name).stat().st_size for name in self.used()),
            "licence": licence if isinstance(licence, str) else "not stated",
            "files": {name: (self.path / name).stat().st_size for name in self.used()},
            "tensors": types,
            "metadata": {k: v for k, v in self._config.items() if isinstance(v, str | int | float)},
        }
