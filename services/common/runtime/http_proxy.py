"""Selection of an HTTP proxy from environment variables.

Uses `https_proxy` or `http_proxy`, depending on the URL's scheme, or else `all_proxy`. As in curl, lower-case names
take precedence over upper-case ones. `no_proxy` lists hosts, domains, IP addresses and networks to connect to directly.
Connections to loopback addresses are always direct.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from services.common.errors import StartError

_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    url: str
    """The proxy's URL, without credentials."""
    user: str = ""
    """User name; empty if the proxy requires no credentials."""
    password: str = field(default="", repr=False)

    @property
    def url_with_credentials(self) -> str:
        """The proxy's URL with its credentials, for clients that require them in the URL. Never log it."""
        if not self.user:
            return self.url
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return self.url.replace("://", f"://{credentials}@", 1)


def proxy_for(url: str, *, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy for requests to `url`, or None to connect directly.

    Raises:
        StartError: The variable of the proxy is invalid. The message contains its name, but not its value.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    if _is_loopback(host) or _is_direct(host, port, _value(environment, "no_proxy")[1]):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _value(environment, name)
        if value:
            return _parse(variable, value, host)
    return None


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is a loopback address."""
    return _is_loopback(urlsplit(url if "//" in url else f"//{url}").hostname or "")


def _value(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    for variable in (name, name.upper()):
        # In CGI programs, HTTP_PROXY is set from the client's `Proxy` header (CVE-2016-5385).
        is_client_header = variable == "HTTP_PROXY" and "REQUEST_METHOD" in environment
        if (value := environment.get(variable, "").strip()) and not is_client_header:
            return variable, value
    return name, ""


def _parse(variable: str, value: str, host: str) -> Proxy:
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    if scheme.lower() not in _PORTS:
        remedy = f"Set it to a URL such as http://host:3128, or add {host} to NO_PROXY."
        raise StartError(f"{variable}: only HTTP proxies are supported. {remedy}")
    credentials, _, location = rest.rpartition("@")  # A password may contain an `@` that is not percent-encoded.
    user, _, password = (unquote(part) for part in credentials.partition(":"))
    match = _HOST_AND_PORT.fullmatch(location.rstrip("/"))
    if match is None or int(match["port"] or 1) > 65_535 or not _is_latin(user + password):
        raise StartError(f"{variable}: expected a URL such as http://user:password@host:3128.")
    return Proxy(f"{scheme.lower()}://{match[0]}", user, password)


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    return any(_matches(host, port, entry) for entry in re.split(r"[\s,]+", no_proxy.lower()) if entry)


def _matches(host: str, port: int, entry: str) -> bool:
    """Return whether an entry of `no_proxy` matches a host. Invalid entries match none."""
    if entry == "*":
        return True
    if (address := _ip(host)) is not None:
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    match = _HOST_AND_PORT.fullmatch(entry.removeprefix("*").removeprefix("."))
    if match is None or (match["port"] and int(match["port"]) != port):
        return False
    name = match["host"].strip("[]")
    return host == name or (address is None and host.endswith(f".{name}"))


def _is_loopback(host: str) -> bool:
    address = _ip(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


def _is_latin(text: str) -> bool:
    """Return whether HTTP clients can send `text` as credentials."""
    with suppress(UnicodeEncodeError):
        text.encode("latin-1")
        return text.isprintable()
    return False
