"""Origins (RFC 6454): where a form comes from, and the addresses under which the console is reached."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import idna
from starlette.requests import Request

from services.gateway.http.forwarded import forwarded

_HOST = re.compile(r"[a-z0-9._-]{1,253}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port in the one form in which they are compared: lower case, punycode, the port a number."""

    scheme: str
    host: str
    port: int

    @property
    def has_default_port(self) -> bool:
        """Whether the port is the scheme's own, which is not written."""
        return self.port == _DEFAULT_PORTS[self.scheme]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
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
    """Return an origin such as `https://Example.com:443`; None when the text is none, as of a page that has none."""
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
class OwnOrigins:
    """The addresses under which a request may have reached the console."""

    public: Origin | None
    """The one that the operator set."""
    shown: Origin | None
    """What a trusted proxy says, or else the `Host` header and the scheme of the connection; None when malformed."""
    is_scheme_known: bool
    """Whether the scheme of `shown` is the client's, and not that of the connection from a proxy."""
    is_proxied: bool
    """Whether a trusted proxy passed the request on without saying which host the client named."""

    def has(self, origin: Origin) -> bool:
        """Whether a page of this origin is one of ours."""
        return origin == self.public or self._is_shown(origin)

    @property
    def current(self) -> Origin | None:
        """The origin that the browser most likely sees; None when nothing is known."""
        public = self._for_others
        if public and (self.is_proxied or self.shown is None or self._is_shown(public)):
            return public
        return self.shown

    @property
    def for_readers(self) -> Origin | None:
        """The address to show to readers: the operator's, unless that is for this machine alone."""
        return self._for_others or self.current

    @property
    def _for_others(self) -> Origin | None:
        """The operator's address, unless it is for this machine alone, as where none was set."""
        return self.public if self.public and not self.public.is_loopback else None

    def __str__(self) -> str:
        known = dict.fromkeys(str(one) for one in (self.public, self.shown) if one)
        return " or ".join(known) or "an unknown address"

    def _is_shown(self, origin: Origin) -> bool:
        if self.shown is None or origin == self.shown:
            return origin == self.shown
        # HTTPS may end at a proxy that does not say so: then host and port must be the same, whatever the scheme is.
        is_same_port = origin.port == self.shown.port or (origin.has_default_port and self.shown.has_default_port)
        return not self.is_scheme_known and origin.host == self.shown.host and is_same_port


def own_origins(request: Request, public: Origin | None) -> OwnOrigins:
    """Return the addresses under which a request may have come."""
    said = forwarded(request.scope)
    host = (said and said.host) or request.headers.get("host", "")
    return OwnOrigins(
        public=public,
        shown=parse_origin(f"{request.scope['scheme']}://{host}"),
        is_scheme_known=bool(said and said.has_scheme),
        is_proxied=bool(said and not said.host),
    )


def _normalised(host: str) -> str:
    """Return a host in the form in which browsers send it; empty when it is none."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        name = host.lower() if host.isascii() else idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        return ""
    return name.removesuffix(".") if _HOST.fullmatch(name) else ""
