"""TLS, proxies, addresses and the time-out of connecting."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trustme

from services.common.runtime.http_proxy import Proxy
from services.inference.http.client import HTTPClient, open_client
from services.inference.http.errors import ConnectError, ConnectionLost, ConnectTimeout, ProxyRefused
from tests.integration.http_client.server import GET, Handler, Peer, answering, client_of, fetch, serving, until
from tests.integration.upstream import dead_address

_SECRET = b"GET / HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer gsk_secret\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that the client trusts."""
    authority = trustme.CA()
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return authority


def tls_for(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Return the settings of a server with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@dataclass
class ForwardProxy:
    """A proxy that answers CONNECT and forwards bytes to one server, whatever the host of the request."""

    port: int
    """Port of the server."""
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    received: list[bytes] = field(default_factory=list)
    """The heads of the requests, and what was sent before the tunnel was open."""

    async def handle(self, peer: Peer) -> None:
        """Open a tunnel if the answer is 200."""
        await peer.request()
        self.received.extend(peer.heads)
        await peer.send(self.answer)
        if b" 200 " not in self.answer:
            self.received.append(await peer.reader.read(1_000))
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        copying = asyncio.create_task(_copy(reader, peer.writer))
        try:
            await _copy(peer.reader, writer)
        finally:
            copying.cancel()
            writer.close()
            await asyncio.gather(copying, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def client_through(
    proxy: Proxy | None, url: str, *, connect_timeout_seconds: float = 5
) -> AsyncIterator[HTTPClient]:
    """Open a client that uses a proxy."""
    async with open_client(
        httpx.URL(url), proxy=proxy, connections_max=2, connect_timeout_seconds=connect_timeout_seconds
    ) as client:
        yield client


def sending_at_once(text: bytes) -> Handler:
    """Return a handler that sends a text without waiting for a request."""

    async def handle(peer: Peer) -> None:
        await peer.send(text)

    return handle


def named(url: str, host: str) -> str:
    """Return a server's URL with another name for its host."""
    return url.replace("127.0.0.1", host)


async def test_tls_verifies_and_requests_the_name_of_the_server(authority: trustme.CA) -> None:
    names: list[str | None] = []
    tls = tls_for(authority, "localhost")
    tls.sni_callback = lambda connection, name, context: names.append(name)
    async with serving(answering, tls=tls) as server, client_of(named(server.url, "localhost")) as client:
        assert [await fetch(client) for _ in range(3)] == [b"ok"] * 3
        assert len(server.peers) == 1

    assert names == ["localhost"]


@pytest.mark.parametrize("reason", ["another name", "another authority", "no TLS"])
async def test_a_server_that_cannot_be_verified_gets_no_request(reason: str, authority: trustme.CA) -> None:
    issuer = trustme.CA() if reason == "another authority" else authority
    tls = tls_for(issuer, "other.example" if reason == "another name" else "localhost")
    plain = sending_at_once(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    async with serving(plain) if reason == "no TLS" else serving(answering, tls=tls) as server:
        url = named(server.url, "localhost").replace("http:", "https:")
        async with client_of(url) as client, asyncio.timeout(5):
            for _ in range(3):
                with pytest.raises(ConnectError):
                    await client.send(_SECRET)
        assert server.requests == 0


async def test_a_large_body_over_tls_pauses_and_arrives_whole(authority: trustme.CA) -> None:
    body = bytes(range(256)) * 40_000

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body)
        await peer.until_closed()

    received = bytearray()
    async with (
        serving(handle, tls=tls_for(authority, "localhost")) as server,
        client_of(named(server.url, "localhost")) as client,
    ):
        with await client.send(GET) as response:
            while part := await response.read():
                received += part
                await asyncio.sleep(0)
    assert received == body


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_server_that_does_not_shake_hands_is_a_time_out_and_its_socket_is_closed(
    is_tls: bool, authority: trustme.CA
) -> None:
    async def handle(peer: Peer) -> None:
        await peer.until_closed()

    loop = asyncio.get_running_loop()
    async with serving(handle) as server:
        url = named(server.url, "localhost").replace("http:", "https:")
        proxy = None if is_tls else Proxy(server.url)
        async with client_through(proxy, url, connect_timeout_seconds=0.2) as client:
            for number in range(3):
                began = loop.time()
                with pytest.raises(ConnectTimeout):
                    await client.send(_SECRET)
                assert 0.15 < loop.time() - began < 3
                await until(lambda number=number: len(server.peers) > number)  # type: ignore[misc]
                async with asyncio.timeout(3):
                    await server.peers[number].closed.wait()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_cancelled_handshake_closes_its_socket_and_frees_its_place(is_tls: bool, authority: trustme.CA) -> None:
    async def handle(peer: Peer) -> None:
        await peer.until_closed()

    async with serving(handle) as server:
        url = named(server.url, "localhost").replace("http:", "https:")
        async with client_through(None if is_tls else Proxy(server.url), url) as client:
            for number in range(3):  # Of two places.
                sending = asyncio.create_task(client.send(_SECRET))
                await until(lambda number=number: len(server.peers) > number)  # type: ignore[misc]
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                async with asyncio.timeout(3):
                    await server.peers[number].closed.wait()


@pytest.mark.parametrize("is_tls_proxy", [False, True])
async def test_a_tunnel_passes_requests_that_the_proxy_cannot_read(is_tls_proxy: bool, authority: trustme.CA) -> None:
    async with serving(answering, tls=tls_for(authority, "groq.invalid")) as server:
        forward = ForwardProxy(int(server.url.rsplit(":", 1)[1]))
        tls = tls_for(authority, "localhost") if is_tls_proxy else None
        async with serving(forward.handle, tls=tls) as proxy_server:
            proxy = Proxy(named(proxy_server.url, "localhost"), "ada", "p@ß")
            async with client_through(proxy, "https://groq.invalid") as client:
                assert [await fetch(client, _SECRET) for _ in range(3)] == [b"ok"] * 3
        assert len(server.peers) == 1

    credentials = base64.b64encode("ada:p@ß".encode("latin-1")).decode()
    expected = "CONNECT groq.invalid:443 HTTP/1.1\r\nHost: groq.invalid:443\r\n"
    assert forward.received == [f"{expected}Proxy-Authorization: Basic {credentials}\r\n\r\n".encode()]


@pytest.mark.parametrize("is_tls_proxy", [False, True])
async def test_requests_without_tls_are_sent_to_the_proxy_itself(is_tls_proxy: bool, authority: trustme.CA) -> None:
    tls = tls_for(authority, "localhost") if is_tls_proxy else None
    async with (
        serving(answering, tls=tls) as server,
        client_through(Proxy(named(server.url, "localhost")), "http://groq.invalid") as client,
    ):
        assert [await fetch(client) for _ in range(3)] == [b"ok"] * 3
        assert [peer.heads for peer in server.peers] == [[GET] * 3]


REFUSALS: dict[str, tuple[bytes, int]] = {
    "407": (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 2\r\n\r\nno", 407),
    "502": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", 502),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", 0),
    "bytes that are not the server's": (b"HTTP/1.1 299 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 299),
    "a head without an end": (b"HTTP/1.1 299 OK\r\n" + b"x: y\r\n" * 20_000, 299),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_proxy_that_opens_no_tunnel_gets_no_request(name: str, authority: trustme.CA) -> None:
    answer, status = REFUSALS[name]
    forward = ForwardProxy(0, answer)
    async with (
        serving(forward.handle) as server,
        client_through(Proxy(server.url, "ada", "secret"), "https://groq.invalid") as client,
    ):
        with pytest.raises(ProxyRefused) as raised:
            await client.send(_SECRET)

    assert raised.value.status == status
    assert "secret" not in str(raised.value)
    assert b"gsk_secret" not in b"".join(forward.received)


async def test_a_proxy_that_closes_the_connection_is_an_error(authority: trustme.CA) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()

    async with serving(handle) as server, client_through(Proxy(server.url), "https://groq.invalid") as client:
        with pytest.raises(ConnectError):
            await client.send(_SECRET)


async def test_a_tunnel_to_another_server_than_the_named_one_is_refused(authority: trustme.CA) -> None:
    async with serving(answering, tls=tls_for(authority, "other.example")) as server:
        forward = ForwardProxy(int(server.url.rsplit(":", 1)[1]))
        async with (
            serving(forward.handle) as proxy_server,
            client_through(Proxy(proxy_server.url), "https://groq.invalid") as client,
        ):
            with pytest.raises(ConnectError):
                await client.send(_SECRET)
        assert server.requests == 0


async def test_the_dot_of_the_root_is_not_part_of_a_certificates_name(authority: trustme.CA) -> None:
    async with serving(answering, tls=tls_for(authority, "groq.invalid")) as server:
        forward = ForwardProxy(int(server.url.rsplit(":", 1)[1]))
        async with (
            serving(forward.handle) as proxy_server,
            client_through(Proxy(proxy_server.url), "https://groq.invalid.") as client,
        ):
            assert await fetch(client) == b"ok"


@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.0.0.1"])
async def test_a_server_is_found_at_any_of_its_addresses(host: str, authority: trustme.CA) -> None:
    bound = "::1" if host == "[::1]" else "127.0.0.1"
    tls = tls_for(authority, "localhost", "::1", "127.0.0.1")
    async with serving(answering, host=bound, tls=tls) as server:
        port = server.url.rsplit(":", 1)[1]
        async with client_of(f"https://{host}:{port}") as client:
            assert await fetch(client) == b"ok"


@pytest.mark.parametrize("url", ["http://groq.invalid", "https://groq.invalid", f"http://{'a' * 70}.invalid"])
async def test_a_host_that_has_no_address_is_an_error_and_is_looked_up_again(url: str) -> None:
    async with client_of(url) as client:
        found = await asyncio.gather(*(client.send(GET) for _ in range(20)), return_exceptions=True)
        assert {type(one) for one in found} == {ConnectError}
        with pytest.raises(ConnectError):
            await client.send(GET)


async def test_a_refused_connection_frees_its_place() -> None:
    with dead_address() as url:
        async with client_of(url, connections_max=1) as client:
            for _ in range(3):
                with pytest.raises(ConnectError) as raised:
                    await client.send(GET)
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
    assert not str(raised.value)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_server_that_closes_at_once_is_an_error_and_not_a_wait(is_tls: bool, authority: trustme.CA) -> None:
    async def handle(peer: Peer) -> None:
        peer.writer.transport.abort()

    tls = tls_for(authority, "localhost") if is_tls else None
    async with serving(handle, tls=tls) as server, client_of(named(server.url, "localhost")) as client:
        async with asyncio.timeout(10):
            found = await asyncio.gather(*(client.send(GET) for _ in range(100)), return_exceptions=True)

    assert {type(one) for one in found} <= {ConnectError, ConnectionLost}


async def test_the_end_of_the_client_ends_what_is_being_opened(authority: trustme.CA) -> None:
    async def handle(peer: Peer) -> None:
        await asyncio.sleep(0.1)
        await peer.until_closed()

    async with serving(handle) as server:
        url = named(server.url, "localhost").replace("http:", "https:")
        async with client_of(url, connect_timeout_seconds=0.3) as client:
            opening = asyncio.create_task(client.send(GET))
            await until(lambda: len(server.peers) == 1)
        found = await asyncio.gather(opening, return_exceptions=True)
        assert isinstance(found[0], ConnectError)
        async with asyncio.timeout(3):
            await server.peers[0].closed.wait()
