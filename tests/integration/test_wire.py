"""The transport to Groq sends what the official package would: same path, headers and body, for each key."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest
from groq import AsyncGroq

from services.common.errors import StartError
from services.inference.groq.provider import open_groq
from services.inference.groq.transport import HTTPTransport
from services.inference.http.errors import ProxyRefused
from tests.integration.upstream import asking

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nset-cookie: edge=1\r\n\r\n{}"


_NO_TUNNEL = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
_CREDENTIALS = "Basic " + base64.b64encode("ada:p@ß".encode("latin-1")).decode()


@dataclass
class RecordingServer:
    """A server that records requests as they arrive and answers `{}`."""

    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Request line, headers by lower-case name, and body."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            line, *rest = head.decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append((line, headers, body))
            writer.write(_NO_TUNNEL if line.startswith("CONNECT") else _ANSWER)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[RecordingServer, str]]:
    """Run a recording server for the block; yield it and its address."""
    recorder, writers = RecordingServer(), list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError):
            await recorder.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield recorder, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def both(url: str) -> AsyncIterator[tuple[HTTPTransport, list[AsyncGroq]]]:
    """Yield the transport and the package's clients, of two keys."""
    keys = ("gsk_one", "gsk_two")
    async with (
        open_groq(keys, base_url=url, connections_max=10, connect_timeout_seconds=5) as wire,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        yield wire, [AsyncGroq(api_key=key, base_url=url, max_retries=0, http_client=http) for key in keys]


@pytest.mark.parametrize("key", [0, 1])
async def test_the_transport_sends_what_the_package_sends(key: int) -> None:
    body = asking("hello, Grüße")
    async with listening() as (recorder, url), both(url) as (wire, clients):
        await clients[key].post("/openai/v1/chat/completions", cast_to=httpx.Response, content=body, options={})
        with await wire.post(body, key=key) as response:
            assert await response.read() == b"{}"

    package, ours = recorder.requests
    assert package[1].pop("connection") == "keep-alive", "the default of HTTP/1.1 (RFC 9112, 9.3)"
    assert package[1].pop("x-stainless-read-timeout") == "60", "ours has no time-out for reading"
    assert package[1].pop("accept-encoding") != ours[1].pop("accept-encoding") == "identity"
    assert ours == package
    assert ours[1]["authorization"] == ("Bearer gsk_one", "Bearer gsk_two")[key]


async def test_the_edges_cookies_are_not_carried_from_one_users_request_to_the_next() -> None:
    async with listening() as (recorder, url), both(url) as (wire, _):
        for _ in range(2):
            with await wire.post(asking("hello"), key=0) as response:
                await response.read()

    assert [headers.get("cookie") for _, headers, _ in recorder.requests] == [None, None]


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
async def test_chats_and_the_model_list_go_through_the_same_proxy_with_its_credentials(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    _forget_proxies(monkeypatch)
    async with listening() as (recorder, url):
        monkeypatch.setenv(variable, url.replace("http://", "http://ada:p%40ß@"))
        monkeypatch.setenv("NO_PROXY", "[::1],fd00::/8")
        async with both("http://groq.invalid") as (wire, _):
            with await wire.post(asking("hello"), key=0) as response:
                assert response.status == 200
            with await wire.get_models(key=0) as response:
                assert response.status == 200

    lines = [line for line, _, _ in recorder.requests]
    assert lines == [
        "POST http://groq.invalid/openai/v1/chat/completions HTTP/1.1",
        "GET http://groq.invalid/openai/v1/models HTTP/1.1",
    ]
    assert [headers["proxy-authorization"] for _, headers, _ in recorder.requests] == [_CREDENTIALS] * 2
    assert [headers["authorization"] for _, headers, _ in recorder.requests] == ["Bearer gsk_one"] * 2


@pytest.mark.parametrize(
    ("variable", "credentials", "shown"),
    [("https_proxy", "ada:p%40ß@", _CREDENTIALS), ("HTTPS_PROXY", "", None), ("ALL_PROXY", "", None)],
)
async def test_https_uses_a_tunnel_whose_proxy_does_not_see_groqs_key(
    monkeypatch: pytest.MonkeyPatch, variable: str, credentials: str, shown: str | None
) -> None:
    _forget_proxies(monkeypatch)
    async with listening() as (recorder, url):
        monkeypatch.setenv(variable, url.replace("http://", f"http://{credentials}"))
        async with both("https://groq.invalid") as (wire, _):
            with pytest.raises(ProxyRefused):
                await wire.post(asking("hello"), key=0)
            with pytest.raises(ProxyRefused):
                await wire.get_models(key=0)

    assert [line for line, _, _ in recorder.requests] == ["CONNECT groq.invalid:443 HTTP/1.1"] * 2
    assert [headers.get("proxy-authorization") for _, headers, _ in recorder.requests] == [shown] * 2
    assert "gsk_" not in str(recorder.requests)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_a_loopback_address_is_reached_directly(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    _forget_proxies(monkeypatch)
    async with listening() as (recorder, url):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
        async with both(url) as (wire, _):
            with await wire.post(asking("hello"), key=0) as response:
                assert response.status == 200
            with await wire.get_models(key=0) as response:
                assert response.status == 200

    assert len(recorder.requests) == 2


async def test_an_unusable_proxy_stops_the_start_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    _forget_proxies(monkeypatch)
    monkeypatch.setenv("ALL_PROXY", "socks://user:canary@proxy:1080")
    with pytest.raises(StartError, match="ALL_PROXY: only HTTP proxies are supported") as raised:
        async with both("http://groq.invalid"):
            pass
    assert "canary" not in str(raised.value)


def _forget_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
