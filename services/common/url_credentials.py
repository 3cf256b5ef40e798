"""URLs whose credentials may contain `/`, `#`, `?` and `@` that are not percent-encoded."""

import re
from urllib.parse import quote, unquote

_LOCATION = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::[0-9]+)?(?:,[\w.:-]+)*(?:/[^@?#]*)?(?:\?\w+=.*)?", re.DOTALL)
"""The part after the credentials: one or more hosts, a path, and a query. Only the query may contain an `@`."""

_CREDENTIALS = re.compile(r"[^@/?#]*@")


def with_encoded_credentials(url: str) -> str:
    """Return a URL with percent-encoded user and password. Parts that are already encoded stay the same.

    The credentials end at the first `@` that is followed by a valid host. A URL without credentials is returned
    unchanged.
    """
    scheme, separator, rest = url.partition("://")
    ends = [match.start() for match in re.finditer("@", rest) if _LOCATION.fullmatch(rest[match.end() :])]
    if not separator or rest.startswith("/") or _LOCATION.fullmatch(rest) or not ends:
        return url
    credentials, location = rest[: ends[0]], rest[ends[0] + 1 :]
    user, colon, password = credentials.partition(":")
    return f"{scheme}://{_encoded(user)}{colon}{_encoded(password)}@{location}"


def with_credentials(url: str, *, user: str, password: str) -> str:
    """Return a URL with `user` and `password` as its credentials. An empty value keeps the one in the URL."""
    scheme, _, rest = with_encoded_credentials(url).partition("://")
    credentials, _, location = rest.partition("@") if _CREDENTIALS.match(rest) else ("", "", rest)
    own_user, _, own_password = credentials.partition(":")
    new_user, new_password = quote(user, safe="") or own_user, quote(password, safe="") or own_password
    if not new_user and not new_password:
        return url
    return f"{scheme}://{new_user}{':' if new_password else ''}{new_password}@{location}"


def _encoded(text: str) -> str:
    return quote(unquote(text), safe="")
