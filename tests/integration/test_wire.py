"""The wire to Groq sends what the official package would: same path, same headers, same body, whatever the key."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from groq import AsyncGroq

from services.inference.provider import open_groq
from services.inference.wire import Wire
from tests.unit.inference.upstream import asking

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nset-cookie: edge=1\r\n\r\n{}"


@dataclass
class Ear:
    """A server that notes requests as they arrive and answers `{}`."""

    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Request line, headers by lower-case name, and body."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line, *rest = head.decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in rest)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append((line, headers, body))
            writer.write(_ANSWER)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Ear, str]]:
    """Run an ear for the block; give it and its address."""
    ear = Ear()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await ear.serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield ear, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def both(url: str) -> AsyncIterator[tuple[Wire, list[AsyncGroq]]]:
    """Give the wire and the package's clients, of two keys."""
    keys = ("gsk_one", "gsk_two")
    async with (
        open_groq(keys, base_url=url, connections_max=10, connect_timeout_seconds=5) as wire,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        yield wire, [AsyncGroq(api_key=key, base_url=url, max_retries=0, http_client=http) for key in keys]


@pytest.mark.parametrize("key", [0, 1])
async def test_the_wire_sends_what_the_package_sends(key: int) -> None:
    body = asking("hello, Grüße")
    async with listening() as (ear, url), both(url) as (wire, clients):
        await clients[key].post("/openai/v1/chat/completions", cast_to=httpx.Response, content=body, options={})
        async with await wire.post(body, key=key) as response:
            assert await response.read() == b"{}"

    package, ours = ear.requests
    assert package[1].pop("connection") == "keep-alive", "what HTTP/1.1 means without a word (RFC 9112, 9.3)"
    assert package[1].pop("x-stainless-read-timeout") == "60", "ours has no time-out for reading"
    assert package[1].pop("accept-encoding") != ours[1].pop("accept-encoding") == "identity"
    assert ours == package
    assert ours[1]["authorization"] == ("Bearer gsk_one", "Bearer gsk_two")[key]


async def test_the_edges_cookies_are_not_carried_from_one_users_request_to_the_next() -> None:
    async with listening() as (ear, url), both(url) as (wire, _):
        for _ in range(2):
            async with await wire.post(asking("hello"), key=0) as response:
                await response.read()

    assert [headers.get("cookie") for _, headers, _ in ear.requests] == [None, None]


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as (ear, url):
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with both("http://groq.invalid") as (wire, _), await wire.post(asking("hello"), key=0) as response:
            assert response.status == 200

    assert ear.requests[0][0] == "POST http://groq.invalid/openai/v1/chat/completions HTTP/1.1"


async def test_an_address_that_needs_no_proxy_is_reached_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as (ear, url):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with both(url) as (wire, _), await wire.post(asking("hello"), key=0) as response:
            assert response.status == 200

    assert len(ear.requests) == 1
