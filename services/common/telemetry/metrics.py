"""Metrics for Prometheus, on a port of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from services.common.errors import StartError
from services.common.runtime.address import parse_address, resolve, why_not_bound


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
    address = parse_address(listen)
    resolve(address)
    try:
        server, thread = start_http_server(address.port, addr=address.host)
    except OSError as exc:
        raise StartError(f"metrics: {why_not_bound(address)}; use another host:port, or none") from exc
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
