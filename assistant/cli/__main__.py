"""`python -m assistant.cli`: the same as `pellucid`, for launchers such as torchrun."""

from assistant.cli.main import main

main()
