"""Network addresses: how they are written, where they listen, and where this machine reaches them."""

import errno
import ipaddress
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from services.common.errors import StartError

_UNIX = "unix:"
_WRITTEN = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:/@\s]+)):(?P<port>[0-9]{1,5})")
_PORT_MAX = 65_535
_UNIX_BYTES_MAX = 107
"""Bytes of a Unix socket's path on Linux (`sun_path` without its end)."""
_RESOLVE_SECONDS = 5.0
"""Longest wait for a name server. Without a network, the resolver itself gives up after half a minute or never."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    host: str
    """A name, or an IPv4 or IPv6 address without brackets; `0.0.0.0` is all IPv4 addresses, `::` all addresses."""
    port: int
    """0 lets the system choose."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> "Address":
        """Where this machine reaches a server that listens here."""
        return replace(self, host="127.0.0.1") if _is_wildcard(self.host) else self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; a name other than `localhost` counts as reachable from elsewhere."""
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)

    def shifted(self, by: int) -> "Address":
        """Return the address with a later port, which may be too high: see `bind`."""
        return replace(self, port=self.port + by)


def parse_address(text: str) -> Address:
    """Return what `host:port` or `[ipv6]:port` means.

    Raises:
        ValueError: It is neither; the message says what is expected.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected host:port, such as 127.0.0.1:8080 or [::]:8080")
    if int(found["port"]) > _PORT_MAX:
        raise ValueError(f"expected a port of at most {_PORT_MAX}")
    if found["ipv6"] and not _is_ip(found["ipv6"]):
        raise ValueError("expected an IPv6 address in the brackets, such as [::]:8080")
    return Address(parse_host(found["ipv6"] or found["host"]), int(found["port"]))


def parse_host(text: str) -> str:
    """Return a host without brackets.

    Raises:
        ValueError: It is no host, but a URL or the like, or an address that cannot be.
    """
    host = text.strip().removeprefix("[").removesuffix("]")
    if _is_ip(host):
        return host
    if not re.fullmatch(r"[\w.-]+", host) or re.fullmatch(r"[\d.]+", host):
        raise ValueError("expected an IP address or a name, such as 127.0.0.1, :: or localhost")
    return host


def _check_address(text: str) -> str:
    return text if not text else str(parse_address(text))


def _check_listen(text: str) -> str:
    if not text.startswith(_UNIX):
        return str(parse_address(text))
    path = text.removeprefix(_UNIX)
    if not path.strip("/ ") or len(path.encode()) > _UNIX_BYTES_MAX:
        raise ValueError(f"expected unix:/path with a path of at most {_UNIX_BYTES_MAX} bytes")
    return text


EMPTY_IS_NONE = "empty is none"
"""Marks the type of a text setting that may be emptied although its default is a text."""

HostAndPort = Annotated[str, AfterValidator(_check_address), EMPTY_IS_NONE]
"""A setting of the form `host:port`; empty is none."""

Listen = Annotated[str, AfterValidator(_check_listen)]
"""A setting of the form `host:port` or `unix:/path`."""

ListenOrNone = Annotated[str, AfterValidator(lambda text: text and _check_listen(text))]
"""As `Listen`; empty is none."""

Host = Annotated[str, AfterValidator(parse_host)]
"""A setting that is a host."""


def _check_url(text: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port):
            return text
    raise ValueError("expected http://host or https://host")


HTTPURL = Annotated[str, AfterValidator(_check_url)]
"""A setting that is the URL of an HTTP server."""


def reachable(listen: str) -> str:
    """Return where this machine reaches a server that listens at `host:port` or `unix:/path`."""
    return listen if listen.startswith(_UNIX) else str(parse_address(listen).reachable)


def is_local(listen: str) -> bool:
    """Whether only this machine reaches a server that listens at `host:port` or `unix:/path`."""
    return listen.startswith(_UNIX) or parse_address(listen).is_loopback


def bind(address: Address, *, backlog: int = 100, reuse_port: bool = False) -> list[socket.socket]:
    """Listen at an address: at each address of a name, and at `::` for IPv4 too.

    Args:
        address: Where.
        backlog: Connections that may wait to be accepted.
        reuse_port: Share the port with other processes that say the same.

    Raises:
        StartError: It cannot be listened at; the sentence says why, and names no setting.
    """
    found = resolve(address)
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        failures: list[OSError] = []
        port = address.port
        for family, host in found:
            try:
                one = _listening(family, host, port, backlog=backlog, reuse_port=reuse_port)
            except OSError as exc:
                failures.append(exc)
                continue
            sockets.append(opened.enter_context(one))
            port = one.getsockname()[1]  # All have the one that the system chose for the first.
        # `localhost` may have an IPv6 address on a machine that has none; a port that is taken is another matter.
        if failures and (not sockets or any(exc.errno == errno.EADDRINUSE for exc in failures)):
            raise StartError(f"cannot listen on {address}: {_why(failures[0])}") from failures[0]
        opened.pop_all()
        return sockets


def why_not_bound(address: Address) -> str:
    """Return why an address cannot be listened at, for a server that only says that it failed."""
    try:
        for one in bind(address):
            one.close()
    except StartError as exc:
        return str(exc)
    return f"cannot listen on {address}: the address is in use"


def _listening(family: int, host: str, port: int, *, backlog: int, reuse_port: bool) -> socket.socket:
    with ExitStack() as stack:
        one = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not _is_wildcard(host))
        one.bind((host, port))
        one.listen(backlog)
        stack.pop_all()
        return one


def resolve(address: Address) -> Sequence[tuple[int, str]]:
    """Return the families and IP addresses to listen at, each once, IPv4 first.

    Raises:
        StartError: Its host is a name that cannot be resolved.
    """
    results: list[tuple[int, str]] = []
    failures: list[str] = []

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as exc:
            failures.append(getattr(exc, "strerror", None) or str(exc))
            return
        results.extend(sorted({(int(family), str(place[0])) for family, _, _, _, place in found}))

    # Not the loop's executor: a look-up that hangs would keep the process from ending.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_RESOLVE_SECONDS)
    if not results:
        why = failures[0] if failures else f"no answer within {_RESOLVE_SECONDS:.0f} s"
        raise StartError(f"cannot listen on {address}: the host cannot be resolved ({why})")
    return results


_REASONS = {
    errno.EADDRINUSE: "the port is in use",
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EAFNOSUPPORT: "this machine has no such kind of address",
    errno.EACCES: "the port needs special rights",
}


def _why(exc: OSError) -> str:
    return _REASONS.get(exc.errno or 0) or exc.strerror or str(exc)


def _is_ip(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _is_wildcard(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_unspecified
