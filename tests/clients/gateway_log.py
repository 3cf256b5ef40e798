"""The requests that a gateway logs while a client runs."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.e2e.stack import Stack

_SECONDS = 5


@contextmanager
def recorded(stack: Stack, name: str) -> Iterator[list[tuple[str, str, int]]]:
    """Yield a list which, after the block, has the method, path and status of each request in it, in order.

    Args:
        stack: The stack, which no one else uses during the block.
        name: Any name that was not used before.
    """
    requests: list[tuple[str, str, int]] = []
    _mark(stack, f"/{name}-begins")
    yield requests
    _mark(stack, f"/{name}-ends")
    lines = [json.loads(line) for line in stack.log("gateway-1").splitlines() if '"path"' in line]
    paths = [line["path"] for line in lines]
    first, last = paths.index(f"/{name}-begins") + 1, paths.index(f"/{name}-ends")
    requests += [_request(line) for line in lines[first:last]]


def _mark(stack: Stack, path: str) -> None:
    """Leave a line in the log, which has one line per request, written after its answer."""
    httpx.get(stack.base_url + path, trust_env=False)
    deadline = time.monotonic() + _SECONDS
    while path not in stack.log("gateway-1"):
        assert time.monotonic() < deadline, "the gateway logs no requests"
        time.sleep(0.02)


def _request(line: dict[str, Any]) -> tuple[str, str, int]:
    return line["method"], line["path"], line["status"]
