"""The audit's tests use the ledger's fixtures."""

from tests.assistant.store.conftest import _home, ledger, make_turn, path  # noqa: F401
