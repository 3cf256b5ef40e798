"""The limits of one HTTP server."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on clients' connections, memory and time."""

    head_bytes_max: int = 65_536
    """Maximum size of the request line and header fields of a request; also of its trailers and chunk extensions."""
    fields_max: int = 100
    """Maximum header fields of a request; also of its trailer fields."""
    head_seconds: float = 10.0
    """Maximum time from the first byte of a request to the end of its head."""
    silent_seconds: float = 30.0
    """Maximum time from a new connection to its first byte."""
    keep_alive_seconds: float = 75.0
    """Maximum time from a response to the first byte of the next request."""
    body_idle_seconds: float = 60.0
    """Maximum time between two parts of a request body."""
    stall_seconds: float = 30.0
    """Maximum time in which a client accepts no byte of a response."""
    connections_max: int = 10_000
    """Maximum open connections; 0 means unlimited."""
    connections_per_address_max: int = 2_500
    """Maximum open connections per address (see `address_prefix`); 0 means unlimited."""
    trusted_proxies: Sequence[str] = ()
    """Addresses and networks to which `connections_per_address_max` does not apply."""
