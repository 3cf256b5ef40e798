"""The real stand-in for Groq as a process, and providers that call it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from services.inference.allowance.model import Observation
from services.inference.chat import JSONObject
from services.inference.groq.provider import GroqProvider, open_groq
from tests.integration.groq_standin.standin_process import OSS as OSS
from tests.integration.groq_standin.standin_process import StandIn, started


@dataclass(frozen=True)
class Upstream:
    """A running stand-in, called from a test's event loop without blocking it."""

    standin: StandIn

    @property
    def url(self) -> str:
        """Its base URL."""
        return self.standin.url

    async def entry(self, text: str) -> dict[str, Any]:
        """Return the ended journal entry of the last request whose text was `text`."""
        return await asyncio.to_thread(self.standin.entry, text)

    async def entries(self, text: str) -> list[dict[str, Any]]:
        """Return all journal entries of requests whose text was `text`."""
        journal = (await asyncio.to_thread(self.standin.client.get, "/journal")).json()
        return [entry for entry in journal if entry["last_user_message"] == text]


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """A stand-in with default settings."""
    with started() as (_, url), httpx.Client(base_url=url, timeout=10) as client:
        yield Upstream(StandIn(url, client))


@dataclass
class AnyLease:
    """A lease of one key that records the headers."""

    key: int = 0
    upstream_id: str = ""
    observations: list[Observation] = field(default_factory=list)

    def record_limits(self, observations: Sequence[Observation]) -> None:
        """Record the headers."""
        self.observations.extend(observations)


@asynccontextmanager
async def calling(
    url: str,
    *,
    keys: tuple[str, ...] = ("gsk_one",),
    connect_timeout_seconds: float = 5,
    answer_bytes_max: int = 1_000_000,
) -> AsyncIterator[GroqProvider]:
    """Yield a provider that calls `url`."""
    async with open_groq(
        keys, base_url=url, connections_max=100, connect_timeout_seconds=connect_timeout_seconds
    ) as wire:
        yield GroqProvider(wire, answer_bytes_max=answer_bytes_max)


def asking(text: str, **more: Any) -> bytes:
    """Return the body of a chat request."""
    return json.dumps({"model": OSS, "messages": [{"role": "user", "content": text}], **more}).encode()


def streaming(text: str) -> bytes:
    """Return the body of a streamed chat request."""
    return asking(text, stream=True, stream_options={"include_usage": True})


async def batches_of(
    provider: GroqProvider, text: str, received: list[list[JSONObject]] | None = None
) -> list[list[JSONObject]]:
    """Return a whole stream, grouped by arrival; `received` has what came before it broke."""
    received = [] if received is None else received
    async with provider.stream(streaming(text), AnyLease()) as batches:
        async for batch in batches:
            received.append(batch)
    return received


def output_of(batches: list[list[JSONObject]]) -> str:
    """Return the text of a stream."""
    events = [event for batch in batches for event in batch if event["choices"]]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


@contextmanager
def dead_address() -> Iterator[str]:
    """Yield an address that refuses connections: bound, so that no other process takes it, but not listening."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"
