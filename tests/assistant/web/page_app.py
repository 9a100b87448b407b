"""What a page of test_server runs: the real application over a scripted session."""

from assistant.tui.app import PellucidApp
from tests.assistant.tui.fakes import FakeSession

if __name__ == "__main__":
    PellucidApp(FakeSession()).run()
