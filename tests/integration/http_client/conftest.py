"""All tests of the HTTP client run with asyncio's event loop and with uvloop, which the services use."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what makes the event loop of a test."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
