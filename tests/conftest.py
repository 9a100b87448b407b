"""What all tests share: an isolated home, and a language model so small that tests need no weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import assistant.lm.threads  # noqa: F401  (sets how OpenMP waits, before anything imports torch)
from assistant import paths
from tests.tiny import write_tiny_model

REAL_HOME = os.environ.get("PELLUCID_HOME")


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    """Every test has its own configuration, log and model folder."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PELLUCID_HOME", str(folder))
    for name in list(os.environ):
        if name.startswith("PELLUCID_") and name != "PELLUCID_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PELLUCID_GUARD", "ngrams")  # nothing is fetched; tests/safety/test_encoder.py has the other one
    return folder


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The real default model, fetched once into the person's own model folder."""
    from assistant.lm import catalog, pull

    return pull.pull(catalog.find(catalog.DEFAULT))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A .gguf file with two random layers and a vocabulary of bytes."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory) -> Path:
    """The tiny model without an end token: with `--raw` it writes until something stops it."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "endless.gguf", **{"tokenizer.ggml.eos_token_id": None})


@pytest.fixture(scope="session")
def default_engine(default_model):
    """The real default model, loaded once in float32 for all tests that only read it."""
    from assistant.lm.engine import Engine

    return Engine.load(default_model, name="smollm2-135m", dtype="float32")


def pytest_report_header() -> str:
    import sqlite3

    return f"models: {paths.models_dir()}, SQLite {sqlite3.sqlite_version}"
