"""Metrics for Prometheus, on a port of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from services.common.errors import StartError


@contextmanager
def served(listen: str) -> Iterator[None]:
    """Answer `GET /metrics` on `listen` for the block.

    Args:
        listen: `host:port`; empty serves none.

    Raises:
        StartError: The address is taken or cannot be used.
    """
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"))
    except (OSError, ValueError) as exc:
        raise StartError(f"cannot serve metrics on {listen}: {exc}; use another host:port, or none") from exc
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
