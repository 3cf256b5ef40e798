"""Unused ports."""

import contextlib
import os
import random
import socket

_PORTS = range(10_000, 32_768)
"""Outside the range of automatic ports, so that no outgoing connection takes one before its server is started again."""
_PORTS_OF_A_WORKER = 1_400
_WORKERS_MAX = len(_PORTS) // _PORTS_OF_A_WORKER
_given: set[int] = set()


def free_port() -> int:
    """Return an unused port of the loopback address, which no other call returns, in any worker of xdist."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS_MAX
    ports = _PORTS[worker * _PORTS_OF_A_WORKER : (worker + 1) * _PORTS_OF_A_WORKER]
    while True:
        port = random.choice(ports)
        # A port that was returned before may not be in use yet.
        if port not in _given or len(_given) >= len(ports) // 2:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                _given.add(port)
                return port
