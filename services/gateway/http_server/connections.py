"""Limits and deadlines of all connections of one server."""

import asyncio
import ipaddress
from collections import Counter
from typing import Protocol

from services.common.address_prefix import address_prefix
from services.gateway.http.errors import HTTPError
from services.gateway.http_server.limits import Limits

_TICK_SECONDS = 1.0
_REFUSED_MAX = 256
"""Maximum refused connections that stay open briefly to receive an error response. Others are closed without one."""

_TOO_MANY = "The server has too many open connections. Try again in a moment."
_TOO_MANY_OF_ADDRESS = "Too many connections are open from your address. Close or reuse some, and try again."
_RETRY = {"retry-after": "1"}
TOO_MANY_CONNECTIONS = HTTPError(503, _TOO_MANY, "internal_error", code="too_many_connections", headers=_RETRY)
TOO_MANY_OF_ADDRESS = HTTPError(
    429, _TOO_MANY_OF_ADDRESS, "rate_limit_exceeded", code="too_many_connections", headers=_RETRY
)


class Timed(Protocol):
    """A connection with a deadline."""

    deadline: float
    """Time of the event loop; inf if there is no deadline."""

    def on_deadline(self) -> None:
        """Act on an expired deadline."""


class Connections:
    """Admits connections within the limits, and checks all deadlines once per second.

    A single timer for all connections costs nothing per request. A timer per connection would be set and cancelled for
    each one.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._trusted = [ipaddress.ip_network(network) for network in limits.trusted_proxies]
        self._open: set[Timed] = set()
        self._by_address: Counter[str] = Counter()
        self._refused = 0
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, connection: Timed, address: str) -> HTTPError | None:
        """Count a connection. Return the error if it is refused, or None if it is admitted.

        Args:
            connection: The connection. The caller must release it, even if it is refused.
            address: Address of the client; empty if it has none.
        """
        self._open.add(connection)
        prefix = self._count_key(address)
        self._by_address[prefix] += 1
        if self._timer is None:
            self._tick()
        if self._is_full(len(self._open) - self._refused, self._limits.connections_max):
            return TOO_MANY_CONNECTIONS
        if prefix and self._is_full(self._by_address[prefix], self._limits.connections_per_address_max):
            return TOO_MANY_OF_ADDRESS
        return None

    def may_linger(self) -> bool:
        """Count a refused connection, and return whether it may stay open to send an error response."""
        self._refused += 1
        return self._refused <= _REFUSED_MAX

    def release(self, connection: Timed, address: str, *, was_refused: bool) -> None:
        """Stop counting a connection that was admitted or refused."""
        self._open.discard(connection)
        self._refused -= was_refused
        prefix = self._count_key(address)
        self._by_address[prefix] -= 1
        if not self._by_address[prefix]:
            del self._by_address[prefix]

    def _count_key(self, address: str) -> str:
        """Return the network prefix under which an address is counted; empty if it is not limited."""
        if self._trusted and address:
            parsed = ipaddress.ip_address(address)
            parsed = getattr(parsed, "ipv4_mapped", None) or parsed
            if any(parsed in network for network in self._trusted):
                return ""
        return address_prefix(address) if address else ""

    @staticmethod
    def _is_full(count: int, limit: int) -> bool:
        return bool(limit) and count > limit

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection in self._open if connection.deadline <= now]:
            connection.on_deadline()
        self._timer = loop.call_later(_TICK_SECONDS, self._tick) if self._open else None
