"""Unused ports."""

import contextlib
import random
import socket

_PORTS = (10_000, 32_767)
"""Outside the range of automatic ports, so that no outgoing connection takes one before its server is started again."""


def free_port() -> int:
    """Return an unused port of the loopback address."""
    while True:
        port = random.randint(*_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
