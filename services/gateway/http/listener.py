"""The socket that a gateway listens on."""

import logging
import resource
import socket

from services.common.errors import StartError

BACKLOG = 4_096
_OTHER_FILES = 1_000
_log = logging.getLogger(__name__)
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


def allow_connections(count: int) -> None:
    """Let the process have a file open for each of `count` connections, and for what else it does.

    Processes often start with a soft limit of 1,024 files and may raise it. Where they may not, the last connections
    would fail without an answer, so the log says which limit to raise.
    """
    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "the limit of open files is below the limit of connections", extra={"files": hard, "wanted": wanted}
        )
