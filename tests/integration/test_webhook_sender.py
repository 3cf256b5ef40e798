"""Webhooks over real connections: what is sent, and what a receiver cannot make the sender do."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import trustme

from services.auth.accounts.webhook_signatures import SignedMessage, WebhookVerifier
from services.inference.webhooks.addresses import AddressPolicy
from services.inference.webhooks.events import Event, NotDelivered
from services.inference.webhooks.sender import Sender

_ALLOWED = (ipaddress.ip_network("127.0.0.0/8"),)
_EVENT = Event("whk_1-2026-11-29", b'{"type":"usage.day"}', 1_795_348_800)
_SECRET = b"a secret of 24 characters"
_OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Receiver:
    """A server that answers with raw bytes, and records requests."""

    port: int = 0
    answer: bytes = _OK
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0
    is_endless: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        try:
            writer.write(self.answer)
            await writer.drain()
            while self.is_endless:
                writer.write(b"x" * 65_536)
                self.sent += 65_536
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def _receiver(context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


def _sender(*addresses: str, seconds_max: float = 5.0) -> tuple[Sender, list[str]]:
    """Return a sender whose names have these addresses, and the names that it looks up."""
    names: list[str] = []

    async def lookup(host: str, port: int) -> Sequence[str]:
        names.append(host)
        return addresses

    return Sender(AddressPolicy(_ALLOWED, lookup=lookup), seconds_max=seconds_max), names


async def test_an_event_arrives_signed_as_standard_webhooks_defines_it() -> None:
    sender, _ = _sender("127.0.0.1")
    async with _receiver() as receiver:
        await sender.send(f"http://example.com:{receiver.port}/usage?a=b", _EVENT, _SECRET)
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}

    assert lines[0] == "POST /usage?a=b HTTP/1.1"
    assert headers["host"] == f"example.com:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "stack-webhooks"
    message = SignedMessage(headers["webhook-id"], headers["webhook-timestamp"], headers["webhook-signature"], body)
    WebhookVerifier([_SECRET]).verify(message, now=datetime.fromtimestamp(_EVENT.timestamp, UTC))
    assert (message.webhook_id, body) == (_EVENT.id, _EVENT.body)


async def test_a_name_is_resolved_once_and_the_connection_goes_to_that_address() -> None:
    """A second answer of the name's server could be another address."""
    sender, names = _sender("127.0.0.1")
    async with _receiver() as receiver:
        await sender.send(f"http://rebinding.invalid:{receiver.port}/", _EVENT, _SECRET)
    assert len(receiver.requests) == 1
    assert names == ["rebinding.invalid"]


async def test_a_private_address_gets_no_connection() -> None:
    sender, _ = _sender("10.1.2.3")
    with pytest.raises(NotDelivered, match="not public"):
        await sender.send("https://example.com/", _EVENT, _SECRET)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    sender, _ = _sender("127.0.0.1")
    async with _receiver() as target, _receiver() as receiver:
        location = f"http://127.0.0.1:{target.port}/"
        receiver.answer = f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
        with pytest.raises(NotDelivered, match=f"status {status}"):
            await sender.send(f"http://example.com:{receiver.port}/", _EVENT, _SECRET)
    assert target.requests == []


@pytest.mark.parametrize(
    ("answer", "problem", "is_gone"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "status 500", False),
        (b"HTTP/1.1 410 Gone\r\n\r\n", "status 410", True),
        (b"not HTTP\r\n\r\n", "cannot be reached", False),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "cannot be reached", False),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1_000 + b"\r\n", "cannot be reached", False),
        (b"", "cannot be reached", False),
    ],
    ids=["500", "410", "not HTTP", "a long header", "many headers", "nothing"],
)
async def test_any_other_answer_is_a_failure(answer: bytes, problem: str, is_gone: bool) -> None:
    sender, _ = _sender("127.0.0.1")
    async with _receiver() as receiver:
        receiver.answer = answer
        with pytest.raises(NotDelivered, match=problem) as raised:
            await sender.send(f"http://example.com:{receiver.port}/", _EVENT, _SECRET)
    assert raised.value.is_gone is is_gone


async def test_an_endless_body_is_not_read() -> None:
    sender, _ = _sender("127.0.0.1")
    async with _receiver() as receiver:
        receiver.answer, receiver.is_endless = b"HTTP/1.1 200 OK\r\n\r\n", True
        await asyncio.wait_for(sender.send(f"http://example.com:{receiver.port}/", _EVENT, _SECRET), 5)
        assert receiver.sent < 50_000_000


async def test_a_receiver_that_does_not_answer_is_left_in_time() -> None:
    sender, _ = _sender("127.0.0.1", seconds_max=0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NotDelivered, match="in time"):
        await asyncio.wait_for(sender.send(f"http://example.com:{silent.getsockname()[1]}/", _EVENT, _SECRET), 5)


async def test_headers_that_arrive_slowly_do_not_extend_the_time() -> None:
    sender, _ = _sender("127.0.0.1", seconds_max=0.5)
    has_ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            writer.close()
            has_ended.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        url = f"http://example.com:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(NotDelivered):
            await asyncio.wait_for(sender.send(url, _EVENT, _SECRET), 5)
        await asyncio.wait_for(has_ended.wait(), 5)


async def test_a_certificate_of_another_authority_is_refused() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.com").configure_cert(context)
    sender, _ = _sender("127.0.0.1")
    async with _receiver(context) as receiver:
        with pytest.raises(NotDelivered, match="certificate is not valid"):
            await sender.send(f"https://example.com:{receiver.port}/", _EVENT, _SECRET)
    assert receiver.requests == []


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    sender, _ = _sender("127.0.0.1")
    async with _receiver() as receiver:
        await sender.send(f"http://example.com:{receiver.port}/", _EVENT, _SECRET)
    assert len(receiver.requests) == 1
