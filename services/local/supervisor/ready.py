"""Readiness probes for the programs of a stack.

They use sockets directly, since clients of HTTP, gRPC and Redis would take more memory than the rest of the supervisor.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.common.runtime.address import parse_address

_POLL_SECONDS = 0.01
_PROBE_SECONDS = 1.0
_CHECKED_SECONDS = 6.0
"""Slightly longer than the longest dependency check."""
_DEPENDENCIES = frozenset({"groq", "redis"})
"""The gateway learns them from inference and quota, of which one may answer before the other."""
_BYTES_MAX = 16 * 1024 * 1024


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    """Call `probe` repeatedly until it returns True. Callers must set a timeout."""
    while True:
        if await probe():
            return
        await asyncio.sleep(_POLL_SECONDS)


async def listens(address: str) -> bool:
    """Return whether a server accepts connections at `host:port` or `unix:/path`."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await _connect(address)
    except OSError:
        return False
    writer.close()
    return True


async def http_answers(url: str) -> bool:
    """Return whether a GET of `url` returns 200."""
    return await http_get(url, timeout=_PROBE_SECONDS) is not None


async def http_get(url: str, *, timeout: float) -> bytes | None:
    """Return the body of a server on this machine; None if it does not return 200 in time."""
    parts = urlsplit(url)
    # A response to HTTP/1.0 is not chunked, and ends with its connection.
    head = f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n"
    try:
        async with asyncio.timeout(timeout):
            response = await _exchange(parts.netloc, head.encode())
    except OSError:
        return None
    status, _, rest = response.partition(b"\r\n")
    return rest.partition(b"\r\n\r\n")[2] if status.split()[1:2] == [b"200"] else None


async def problems(url: str) -> list[str]:
    """Return the messages of failed dependencies from `GET /readyz`, once all of them have been checked.

    Dependencies that are not checked within a few seconds are left out.
    """
    dependencies: dict[str, Any] = {}
    deadline = time.monotonic() + _CHECKED_SECONDS
    while time.monotonic() < deadline:
        if body := await http_get(url, timeout=_PROBE_SECONDS):
            dependencies = json.loads(body)["dependencies"]
        if {name for name, one in dependencies.items() if one["state"] != "unknown"} >= _DEPENDENCIES:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return [one["message"] for one in dependencies.values() if one["state"] in ("rejected", "unreachable")]


async def valkey_answers(socket: Path) -> bool:
    """Return whether the Valkey at a Unix socket responds. It does not while it loads its data."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            return await _exchange(f"unix:{socket}", b"PING\r\nQUIT\r\n") == b"+PONG\r\n+OK\r\n"
    except OSError:
        return False


async def _exchange(address: str, request: bytes) -> bytes:
    """Return what a server sends until it closes the connection.

    Raises:
        OSError: The connection failed.
    """
    reader, writer = await _connect(address)
    try:
        writer.write(request)
        response = bytearray()
        while (part := await reader.read(65_536)) and len(response) < _BYTES_MAX:
            response += part
        return bytes(response)
    finally:
        writer.close()


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    parsed = parse_address(address)
    return await asyncio.open_connection(parsed.host, parsed.port)
