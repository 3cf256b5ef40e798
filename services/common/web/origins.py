"""Web origins (RFC 6454), and the origins of the console."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import idna
from starlette.requests import Request

from services.common.web.forwarded import forwarded

_HOST = re.compile(r"[a-z0-9._-]{1,253}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """A normalised origin: lower-case scheme and host, the host in Punycode, and a numeric port."""

    scheme: str
    host: str
    port: int

    @property
    def has_default_port(self) -> bool:
        """Whether the port is the scheme's default port, which is omitted in text."""
        return self.port == _DEFAULT_PORTS[self.scheme]

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if self.has_default_port else f"{self.scheme}://{host}:{self.port}"


def parse_origin(text: str) -> Origin | None:
    """Parse an origin such as `https://Example.com:443`. Return None if it is invalid, such as `null`."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    is_bare = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in _DEFAULT_PORTS or not is_bare or not (name := _normalised(host)):
        return None
    return Origin(parts.scheme, name, _DEFAULT_PORTS[parts.scheme] if port is None else port)


@dataclass(frozen=True, slots=True)
class ConsoleOrigins:
    """The possible origins of the console, from the browser's perspective."""

    public: Origin | None
    """The configured public origin; None if not set."""
    shown: Origin | None
    """Origin from a trusted proxy's headers, or else from the `Host` header and the connection's scheme; None if
    malformed."""
    is_scheme_known: bool
    """Whether the scheme of `shown` is from a trusted proxy's header, and not that of the connection."""
    is_proxied: bool
    """Whether the request came through a trusted proxy that did not send the host."""

    def has(self, origin: Origin) -> bool:
        """Return whether `origin` can be that of a console page."""
        return origin == self.public or self._is_shown(origin)

    @property
    def current(self) -> Origin | None:
        """The origin that the browser most likely uses; None if unknown."""
        public = self._for_others
        if public and (self.is_proxied or self.shown is None or self._is_shown(public)):
            return public
        return self.shown

    @property
    def for_readers(self) -> Origin | None:
        """The origin to show to users: the configured one, unless it is a loopback address."""
        return self._for_others or self.current

    @property
    def _for_others(self) -> Origin | None:
        """The configured origin, unless it is a loopback address, as is the default."""
        return self.public if self.public and not self.public.is_loopback else None

    def __str__(self) -> str:
        known = dict.fromkeys(str(origin) for origin in (self.public, self.shown) if origin)
        return " or ".join(known) or "an unknown address"

    def _is_shown(self, origin: Origin) -> bool:
        if self.shown is None or origin == self.shown:
            return origin == self.shown
        # A proxy may terminate HTTPS without sending the scheme. Then only compare host and port.
        is_same_port = origin.port == self.shown.port or (origin.has_default_port and self.shown.has_default_port)
        return not self.is_scheme_known and origin.host == self.shown.host and is_same_port


def console_origins(request: Request, public: Origin | None) -> ConsoleOrigins:
    """Return the possible origins of the console for a request."""
    proxy = forwarded(request.scope)
    host = (proxy and proxy.host) or request.headers.get("host", "")
    return ConsoleOrigins(
        public=public,
        shown=parse_origin(f"{request.scope['scheme']}://{host}"),
        is_scheme_known=bool(proxy and proxy.has_scheme),
        is_proxied=bool(proxy and not proxy.host),
    )


def _normalised(host: str) -> str:
    """Return a host in the form that browsers send; empty if it is invalid."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        name = host.lower() if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        return ""
    return name.removesuffix(".") if _HOST.fullmatch(name) else ""
