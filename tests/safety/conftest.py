"""One guard for all tests: it holds no state between messages but the vault, so sharing it is safe."""

from pathlib import Path

import pytest

from safety.guard import Guard


@pytest.fixture(scope="session")
def guard() -> Guard:
    return Guard.load()


@pytest.fixture(scope="session")
def full_guard() -> Guard:
    """The guard with its real encoder, fetched once into the person's own model folder."""
    from assistant.lm import catalog, pull

    path: Path = pull.pull(catalog.GUARD_ENCODER)
    return Guard.load(encoder=path)
