"""The server's socket, and uvicorn on it."""

from __future__ import annotations

import gc
import signal
import socket
import sys

import uvicorn

from assistant.errors import UsageError
from assistant.served.api import Api

_SWITCH_SECONDS = 0.0005
"""How long a thread that judges may keep others from running: a tenth of Python's usual, for a token must not wait for a verdict on
another reply."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; before the model is loaded, so that a port that is taken is said at once. Raises UsageError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host.strip("[]"), port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise UsageError(f"port {port} of {host} cannot be used ({error.strerror}): choose another with --port") from error
    return made


def run(api: Api, listening: socket.socket) -> None:
    """Serve until Ctrl+C or SIGTERM; replies in the making are then stopped, and logged as such. Raises KeyboardInterrupt."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    if api.many_at_once and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # many verdicts at once are the parallel work; threads of each would only wait for one another
        api.prepare()
    gc.collect()
    gc.freeze()  # what is loaded by now stays: looking through it for garbage would hold up every reply for a third of a second
    server = uvicorn.Server(configured(api))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server passes on what ended it: that must not end everything else
    try:
        server.run(sockets=[listening])
    finally:
        api.close()


def configured(api: Api) -> uvicorn.Config:
    """How uvicorn serves it: no access log (paths and addresses are nobody's business), little patience with idle connections;
    read by h11, which limits how long a head may be."""
    return uvicorn.Config(
        api.app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=5,
        lifespan="off", http="h11", h11_max_incomplete_event_size=32_768,
    )  # fmt: skip
