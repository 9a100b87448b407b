"""One guard for all tests: it holds no state between messages but the vault, so sharing it is safe."""

import pytest

from safety.guard import Guard


@pytest.fixture(scope="session")
def guard() -> Guard:
    return Guard.load()
