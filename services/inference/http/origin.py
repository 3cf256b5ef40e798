"""Scheme, host and port of a server."""

from dataclasses import dataclass

import httpx

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """A server to connect to."""

    host: str
    """Host name in ASCII, or an IP address without brackets."""
    port: int
    is_tls: bool

    @property
    def authority(self) -> str:
        """Host and port as in a CONNECT request."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def server_hostname(self) -> str:
        """Name to verify the certificate against. Certificates contain names without the dot of the root."""
        return self.host.rstrip(".")


def origin_of(url: httpx.URL) -> Origin:
    """Return the origin of a URL."""
    return Origin(url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme], is_tls=url.scheme == "https")
