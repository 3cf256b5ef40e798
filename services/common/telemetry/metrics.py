"""The Prometheus metrics endpoint."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from services.common.errors import StartError
from services.common.runtime.address import parse_address, resolve, why_not_bound


@contextmanager
def served(listen: str) -> Iterator[None]:
    """Serve `GET /metrics` on `listen` until the end of the block.

    Args:
        listen: `host:port`; empty turns the endpoint off.

    Raises:
        StartError: The address is in use or cannot be used.
    """
    if not listen:
        yield
        return
    address = parse_address(listen)
    resolve(address)
    try:
        server, thread = start_http_server(address.port, addr=address.host)
    except OSError as exc:
        raise StartError(f"Metrics: {why_not_bound(address)}. Use another host:port, or leave it empty.") from exc
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
