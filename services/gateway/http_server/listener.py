"""The gateway's listening sockets."""

import logging
import resource
import socket

from services.common.errors import StartError
from services.common.runtime.address import Address
from services.common.runtime.address import bind as bind_address

BACKLOG = 4_096
_OTHER_FILES = 1_000
_log = logging.getLogger(__name__)
_UNSENT_BYTES = 131_072
"""Maximum unsent bytes that the kernel buffers per connection. Beyond it, the kernel accepts no more data. This reveals
the client's pace (write_flow.py), and prevents a slow client from holding megabytes of kernel memory."""


def bind(address: Address, *, is_shared: bool) -> list[socket.socket]:
    """Return listening TCP sockets, whose options are inherited by accepted connections.

    Raises:
        StartError: The address is in use or cannot be used.
    """
    try:
        sockets = bind_address(address, backlog=BACKLOG, reuse_port=is_shared)
    except StartError as exc:
        raise StartError(f"{exc}. Set GATEWAY_HOST and GATEWAY_PORT to a free address.") from exc
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return sockets


def allow_connections(count: int) -> None:
    """Raise the soft limit of open files to allow `count` connections and 1,000 other files.

    Processes often start with a soft limit of 1,024 files. If the hard limit is too low, log a warning: connections
    beyond it would fail without a response.
    """
    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "The limit of open files is too low for the limit of connections; raise the limit of open files",
            extra={"files": hard, "wanted": wanted},
        )
