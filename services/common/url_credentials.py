"""Credentials in URLs as people write them: passwords with `/`, `#`, `?` and `@` that were not percent-encoded."""

import re
from urllib.parse import quote, unquote

_PLACE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::[0-9]+)?(?:,[\w.:-]+)*(?:/[^@?#]*)?(?:\?\w+=.*)?", re.DOTALL)
"""What follows the credentials: a host or several, a path, and a query, which alone may have an `@`."""

_CREDENTIALS = re.compile(r"[^@/?#]*@")


def with_encoded_credentials(url: str) -> str:
    """Return a URL whose user and password are percent-encoded; what was encoded already stays as it is.

    The first `@` that a host follows ends the credentials. A URL without any is returned as it is.
    """
    scheme, separator, rest = url.partition("://")
    ends = [match.start() for match in re.finditer("@", rest) if _PLACE.fullmatch(rest[match.end() :])]
    if not separator or rest.startswith("/") or _PLACE.fullmatch(rest) or not ends:
        return url
    credentials, place = rest[: ends[0]], rest[ends[0] + 1 :]
    user, colon, password = credentials.partition(":")
    return f"{scheme}://{_encoded(user)}{colon}{_encoded(password)}@{place}"


def with_credentials(url: str, *, user: str, password: str) -> str:
    """Return a URL with a user and a password in place of its own; an empty one leaves that of the URL."""
    scheme, _, rest = with_encoded_credentials(url).partition("://")
    credentials, _, place = rest.partition("@") if _CREDENTIALS.match(rest) else ("", "", rest)
    own_user, _, own_password = credentials.partition(":")
    new_user, new_password = quote(user, safe="") or own_user, quote(password, safe="") or own_password
    if not new_user and not new_password:
        return url
    return f"{scheme}://{new_user}{':' if new_password else ''}{new_password}@{place}"


def _encoded(text: str) -> str:
    return quote(unquote(text), safe="")
