"""URLs of Redis or Valkey."""

from typing import Any

from services.common.url_credentials import with_encoded_credentials

_PORT = 6379


def check_redis_url(url: str) -> str:
    """Return `url` if it is a valid Redis URL.

    Raises:
        ValueError: The URL is invalid. The message does not contain it, since it may hold a password.
    """
    try:
        redis_options(url)
    except ValueError:
        raise ValueError("expected redis://user:password@host:6379/0, rediss://… or unix:///path") from None
    return url


def redis_options(url: str) -> dict[str, Any]:
    """Return the options of a connection to a valid URL."""
    from redis.asyncio.connection import parse_url  # Takes 10 MB, and not every process has a URL.

    return dict(parse_url(with_encoded_credentials(url)))


def redis_server(url: str) -> str:
    """Return what identifies the server of a valid URL: its address, regardless of user and database."""
    options = redis_options(url)
    return str(options.get("path") or f"{options.get('host', 'localhost').lower()}:{options.get('port', _PORT)}")
