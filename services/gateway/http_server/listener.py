"""The sockets that a gateway listens on."""

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
"""Kept by the kernel for a client that does not take them yet. Beyond it nothing more is accepted, so that a client's
own pace is seen (write_flow.py), and a slow client holds no megabytes of the kernel's memory."""


def bind(address: Address, *, is_shared: bool) -> list[socket.socket]:
    """Return sockets that listen on TCP; accepted connections inherit their options.

    Raises:
        StartError: The address cannot be had.
    """
    try:
        sockets = bind_address(address, backlog=BACKLOG, reuse_port=is_shared)
    except StartError as exc:
        raise StartError(f"{exc}; set GATEWAY_HOST and GATEWAY_PORT to an address that is free") from exc
    for one in sockets:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return sockets


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
