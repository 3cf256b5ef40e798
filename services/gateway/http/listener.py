"""The socket that a gateway listens on."""

import socket

from services.common.errors import StartError

BACKLOG = 4_096
_UNSENT_BYTES = 131_072
"""Kept by the kernel for a client that does not take them yet. Beyond it nothing more is accepted, so that a client's
own pace is seen (write_flow.py), and a slow client holds no megabytes of the kernel's memory."""


def bind(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """Return a socket that listens on TCP; accepted connections inherit its options.

    Raises:
        StartError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=is_shared)
    except OSError as exc:
        raise StartError(f"cannot listen on {host}:{port}: {exc.strerror}; set GATEWAY_PORT to a free port") from exc
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return listener
