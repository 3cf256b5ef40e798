"""Types of settings that are network addresses.

They are not in `address.py`, because not every process that uses addresses can afford pydantic.
"""

from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from services.common.runtime.address import is_loopback_url, parse_address, parse_host

_UNIX = "unix:"
_UNIX_BYTES_MAX = 107
"""Bytes of a Unix socket's path on Linux (`sun_path` without its end)."""


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
"""Marks the type of a text setting that may be empty although its default is not."""

HostAndPort = Annotated[str, AfterValidator(_check_address), EMPTY_IS_NONE]
"""A setting of the form `host:port`. Empty means not set."""

Listen = Annotated[str, AfterValidator(_check_listen)]
"""A setting of the form `host:port` or `unix:/path`."""

ListenOrNone = Annotated[str, AfterValidator(lambda text: text and _check_listen(text))]
"""A setting of the form `host:port` or `unix:/path`. Empty means not set."""

Host = Annotated[str, AfterValidator(parse_host)]
"""A setting that is a host name or IP address."""


def _check_url(text: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port):
            return text
    raise ValueError("expected http://host or https://host")


HTTPURL = Annotated[str, AfterValidator(_check_url)]
"""A setting that is the URL of an HTTP server."""

HTTPURLOrNone = Annotated[str, AfterValidator(lambda text: text and _check_url(text)), EMPTY_IS_NONE]
"""A setting of the form of `HTTPURL`. Empty means not set."""


def _check_secure_url(text: str) -> str:
    parts = urlsplit(_check_url(text))
    if parts.scheme != "https" and not is_loopback_url(text):
        raise ValueError("expected https://host; http:// is for addresses of this machine only")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("expected a URL without credentials, query and fragment")
    return text


SecureURL = Annotated[str, AfterValidator(_check_secure_url)]
"""A setting that is the URL of an HTTPS server, or of an HTTP server on this machine."""

SecureURLOrNone = Annotated[str, AfterValidator(lambda text: text and _check_secure_url(text))]
"""A setting of the form of `SecureURL`. Empty means not set."""
