"""The bounds of one HTTP server."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take of connections, memory and time."""

    head_bytes_max: int = 65_536
    """Request line and header fields of one request, together; also its trailers, and all chunk extensions."""
    fields_max: int = 100
    """Header fields of one request; also its trailer fields."""
    head_seconds: float = 10.0
    """From a request's first byte to the end of its head."""
    silent_seconds: float = 30.0
    """From a new connection to its first byte."""
    keep_alive_seconds: float = 75.0
    """From a response to the next request's first byte."""
    body_idle_seconds: float = 60.0
    """Between two parts of a request body."""
    stall_seconds: float = 30.0
    """Without one byte of a response taken by the client's side."""
    connections_max: int = 10_000
    """Open connections in all; 0 means unlimited."""
    connections_per_address_max: int = 2_500
    """Open connections of one address (`address_prefix`); 0 means unlimited."""
    trusted_proxies: Sequence[str] = ()
    """Addresses and networks that `connections_per_address_max` does not apply to."""
