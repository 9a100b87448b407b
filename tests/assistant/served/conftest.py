"""A server without a model, on a real socket, that fails on demand; the guard is shared."""

import pytest

from assistant.benchmarks.faulty_server import FaultyServer, Script
from assistant.store.ledger import Ledger
from safety.guard import Guard


@pytest.fixture
def serve():
    """serve(Script(...)) runs a server until the test ends."""
    running = []

    def start(script=None):
        server = FaultyServer(script or Script()).__enter__()
        running.append(server)
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(scope="session")
def guard():
    return Guard.load("balanced")


@pytest.fixture
def ledger():
    with Ledger.open(":memory:") as ledger:
        yield ledger


@pytest.fixture
def api(serve, guard, home):
    from tests.assistant.served.running import Running

    running = []

    def start(script=None, limits=None):
        running.append(Running(serve(script), guard, home, limits))
        return running[-1]

    yield start
    for server in running:
        server.close()
