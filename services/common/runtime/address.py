"""Network addresses: parsing, resolving and listening.

Error messages do not end with a period, so that callers can append a remedy.
"""

import errno
import ipaddress
import re
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from services.common.errors import StartError

_UNIX = "unix:"
_WRITTEN = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:/@\s]+)):(?P<port>[0-9]{1,5})")
_PORT_MAX = 65_535
_RESOLVE_SECONDS = 5.0
"""Maximum wait for name resolution. Without a network, the system resolver takes 30 s to fail, or never does."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    host: str
    """A name, or an IPv4 or IPv6 address without brackets. `0.0.0.0` means all IPv4 addresses, `::` all addresses."""
    port: int
    """Port number; 0 means that the system chooses one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> "Address":
        """The address for connecting from this machine to a server that listens on this address."""
        return replace(self, host="127.0.0.1") if _is_wildcard(self.host) else self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect. Names other than `localhost` count as reachable from elsewhere."""
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)

    def shifted(self, by: int) -> "Address":
        """Return the address with `by` added to its port. The result can exceed 65535."""
        return replace(self, port=self.port + by)


def parse_address(text: str) -> Address:
    """Parse `host:port` or `[ipv6]:port`.

    Raises:
        ValueError: The text has another form; the message describes the expected one.
    """
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected host:port, such as 127.0.0.1:8080 or [::]:8080")
    if int(match["port"]) > _PORT_MAX:
        raise ValueError(f"expected a port of at most {_PORT_MAX}")
    if match["ipv6"] and not _is_ip(match["ipv6"]):
        raise ValueError("expected an IPv6 address in the brackets, such as [::]:8080")
    return Address(parse_host(match["ipv6"] or match["host"]), int(match["port"]))


def parse_host(text: str) -> str:
    """Validate a host and return it without brackets.

    Raises:
        ValueError: The text is not a host name or a valid IP address; it may be a URL.
    """
    host = text.strip().removeprefix("[").removesuffix("]")
    if _is_ip(host):
        return host
    if not re.fullmatch(r"[\w.-]+", host) or re.fullmatch(r"[\d.]+", host):
        raise ValueError("expected an IP address or a name, such as 127.0.0.1, :: or localhost")
    return host


def is_loopback_url(url: str) -> bool:
    """Return whether only this machine can connect to the host of a URL, as for `Address.is_loopback`."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return Address(host, 0).is_loopback


def reachable(listen: str) -> str:
    """Return the address for connecting from this machine to a server that listens on `listen`.

    Args:
        listen: `host:port` or `unix:/path`.
    """
    return listen if listen.startswith(_UNIX) else str(parse_address(listen).reachable)


def is_local(listen: str) -> bool:
    """Return whether only this machine can connect to a server that listens on `host:port` or `unix:/path`."""
    return listen.startswith(_UNIX) or parse_address(listen).is_loopback


def bind(address: Address, *, backlog: int = 100, reuse_port: bool = False) -> list[socket.socket]:
    """Listen on an address. A name listens on all of its addresses, and `::` also on IPv4.

    Args:
        address: Address to listen on.
        backlog: Maximum connections that wait to be accepted.
        reuse_port: Share the port with other processes that also set `reuse_port`.

    Raises:
        StartError: The address cannot be used. The message states the cause, but not the setting.
    """
    addresses = resolve(address)
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        failures: list[OSError] = []
        port = address.port
        for family, host in addresses:
            try:
                sock = _listening(family, host, port, backlog=backlog, reuse_port=reuse_port)
            except OSError as exc:
                failures.append(exc)
                continue
            sockets.append(opened.enter_context(sock))
            port = sock.getsockname()[1]  # All sockets use the port that the system chose for the first.
        # `localhost` may resolve to an IPv6 address on a machine without IPv6. Ignore that, but not a port in use.
        if failures and (not sockets or any(exc.errno == errno.EADDRINUSE for exc in failures)):
            raise StartError(f"Cannot listen on {address}: {_reason(failures[0])}") from failures[0]
        opened.pop_all()
        return sockets


def why_not_bound(address: Address) -> str:
    """Return the reason why an address cannot be listened on, for servers that do not report it."""
    try:
        for sock in bind(address):
            sock.close()
    except StartError as exc:
        return str(exc)
    return f"Cannot listen on {address}: the address is in use"


def _listening(family: int, host: str, port: int, *, backlog: int, reuse_port: bool) -> socket.socket:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not _is_wildcard(host))
        sock.bind((host, port))
        sock.listen(backlog)
        stack.pop_all()
        return sock


def resolve(address: Address) -> Sequence[tuple[int, str]]:
    """Return the address families and IP addresses to listen on, without duplicates, IPv4 first.

    Raises:
        StartError: The host cannot be resolved.
    """
    results: list[tuple[int, str]] = []
    failures: list[str] = []

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as exc:
            failures.append(getattr(exc, "strerror", None) or str(exc))
            return
        results.extend(sorted({(int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in infos}))

    # A daemon thread instead of the loop's executor, in which a hanging lookup would keep the process from exiting.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_RESOLVE_SECONDS)
    if not results:
        reason = failures[0] if failures else f"no answer within {_RESOLVE_SECONDS:.0f} s"
        raise StartError(f"Cannot listen on {address}: the host cannot be resolved ({reason})")
    return results


_REASONS = {
    errno.EADDRINUSE: "the port is in use",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EAFNOSUPPORT: "this machine does not support that kind of address",
    errno.EACCES: "the port requires elevated privileges",
}


def _reason(exc: OSError) -> str:
    return _REASONS.get(exc.errno or 0) or exc.strerror or str(exc)


def _is_ip(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _is_wildcard(host: str) -> bool:
    return _is_ip(host) and ipaddress.ip_address(host).is_unspecified
