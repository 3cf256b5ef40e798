"""One HTTP request and its answer over ASGI, with the socket in reach to close it, reset it or see the client leave."""

import asyncio
import socket
import struct
from typing import Any, Literal

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tools.groq_standin.wire import Headers

_SHORT_SECONDS = 0.05
_POLL_SECONDS = 0.002


class ClientLeft(Exception):
    """The client closed the connection before the answer's end."""


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, which also tells the application its transport.

    ASGI has no word for "reset this connection" or "close it in the middle of a body", which half of the failure
    modes need.
    """

    def on_message_begin(self) -> None:
        """Start a request's scope."""
        super().on_message_begin()
        state: dict[str, Any] = self.scope["state"]
        state["transport"] = self.transport


class Exchange:
    """A request being answered; used by one task."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self._transport: asyncio.Transport = scope["state"]["transport"]

    @property
    def bearer_key(self) -> str:
        """The key of the Authorization header, or an empty string."""
        scheme, _, key = self.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    async def body(self) -> bytes:
        """Return the whole request body.

        Raises:
            ClientLeft: The client left before the end of it.
        """
        received = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            received += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(received)

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Send a part of the body.

        Raises:
            ClientLeft: The connection is gone.
        """
        self.check()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def write_raw(self, data: bytes) -> None:
        """Send bytes past the framing of the body.

        Raises:
            ClientLeft: The connection is gone.
        """
        self.check()
        self._transport.write(data)

    async def finish(self, data: bytes = b"") -> None:
        """Send the last part of the body and end the answer in order."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def check(self) -> None:
        """Raise ClientLeft when the connection is gone."""
        if self._transport.is_closing():
            raise ClientLeft

    async def pause(self, milliseconds: float) -> None:
        """Wait, but not for a client that left.

        Raises:
            ClientLeft: The client closed the connection meanwhile.
        """
        seconds = milliseconds / 1000
        if seconds > _SHORT_SECONDS:
            await self._watch(seconds)
        else:
            # Cheaper than a watch, and late by no more than the pause.
            await asyncio.sleep(seconds)
        self.check()

    async def settle(self) -> None:
        """Wait until the kernel has taken every byte written so far.

        Raises:
            ClientLeft: The connection is gone.
        """
        await asyncio.sleep(0)
        while self._transport.get_write_buffer_size():
            self.check()
            await asyncio.sleep(_POLL_SECONDS)
        self.check()

    async def drop(self, how: Literal["close", "reset"]) -> None:
        """End the connection without ending the answer: in order, or with a TCP reset."""
        if how == "reset":
            # Linger for zero seconds: the kernel sends RST instead of FIN.
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        # Until the connection is lost, uvicorn would take our return for a forgotten answer and send a 500.
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _watch(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return
        raise ClientLeft
