"""The page Health reads a gateway that answers anything, since a captured one may."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.operator_console.clients.health import HealthClient
from services.operator_console.model import Check

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
_STATUS = b'{"status": "ready", "dependencies": '


class _Gateway:
    """Sends one answer, and then the same bytes for ever if it is endless."""

    def __init__(self) -> None:
        self.answer, self.endless, self.pause_seconds = b"", b"", 0.0
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        try:
            while self.endless:
                writer.write(self.endless)
                await writer.drain()
                self.sent += len(self.endless)
                await asyncio.sleep(self.pause_seconds)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[_Gateway, HealthClient]]:
    gateway = _Gateway()
    async with await asyncio.start_server(gateway.serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield gateway, HealthClient([], f"http://{host}:{port}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "\xff"}',
        b'{"status": "ready", "other": ' + b"[" * 60_000,
        b'{"status": 5}',
        _STATUS + b"5}",
        b"",
        b"not JSON",
    ],
    ids=["not UTF-8", "nested", "number", "no object", "empty", "text"],
)
async def test_an_answer_that_is_not_that_of_a_gateway_is_a_failure(
    gateway: tuple[_Gateway, HealthClient], body: bytes
) -> None:
    served, client = gateway
    served.answer = _HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body

    (check,) = await client.checks()

    assert (check.name, check.state) == ("gateway", "failed")
    assert check.message.startswith("No answer from http://127.0.0.1:")


@pytest.mark.long
@pytest.mark.parametrize(("chunk", "pause"), [(b" " * 65_536, 0.0), (b" ", 0.1)], ids=["endless", "slow"])
async def test_an_endless_answer_is_given_up(
    gateway: tuple[_Gateway, HealthClient], chunk: bytes, pause: float
) -> None:
    served, client = gateway
    served.answer, served.endless, served.pause_seconds = _HEAD + b"\r\n" + _STATUS, chunk, pause

    started = time.monotonic()
    async with asyncio.timeout(10):
        (check,) = await client.checks()

    assert (check.name, check.state) == ("gateway", "failed")
    assert time.monotonic() - started < 5
    assert served.sent < 30_000_000


async def test_a_sound_answer_is_shown(gateway: tuple[_Gateway, HealthClient]) -> None:
    served, client = gateway
    body = _STATUS + b'{"groq": {"state": "unreachable", "message": "No route."}}}'
    served.answer = _HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body

    assert await client.checks() == [Check("gateway", "ok"), Check("groq", "failed", "No route.")]
