"""The running stand-in shared by the tests of this folder."""

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.groq_standin.standin_process import StandIn, started


@pytest.fixture(scope="session")
def standin() -> Iterator[StandIn]:
    """A stand-in with default settings."""
    with started() as (_, url), httpx.Client(base_url=url, timeout=10) as client:
        yield StandIn(url, client)
