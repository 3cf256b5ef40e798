"""An HTTP request and its response over ASGI, with access to the socket to close, reset or watch the connection."""

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
    """The client closed the connection before the end of the response."""


class Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol, which passes the transport to the application.

    ASGI cannot reset a connection or close it within a body, which many failure modes need.
    """

    def on_message_begin(self) -> None:
        """Add the transport to the scope of a new request."""
        super().on_message_begin()
        state: dict[str, Any] = self.scope["state"]
        state["transport"] = self.transport


class Exchange:
    """A request and its response. Not safe for use by several tasks."""

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
            ClientLeft: The client disconnected before the end of the body.
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
            ClientLeft: The connection is closed.
        """
        self.check()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def write_raw(self, data: bytes) -> None:
        """Send bytes without the framing of the body.

        Raises:
            ClientLeft: The connection is closed.
        """
        self.check()
        self._transport.write(data)

    async def finish(self, data: bytes = b"") -> None:
        """Send the last part of the body and end the response."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def check(self) -> None:
        """Raise `ClientLeft` if the connection is closed."""
        if self._transport.is_closing():
            raise ClientLeft

    async def pause(self, milliseconds: float) -> None:
        """Wait, unless the client disconnects.

        Raises:
            ClientLeft: The client closed the connection.
        """
        seconds = milliseconds / 1000
        if seconds > _SHORT_SECONDS:
            await self._watch(seconds)
        else:
            # Cheaper than watching, and a disconnect is noticed after the short pause.
            await asyncio.sleep(seconds)
        self.check()

    async def settle(self) -> None:
        """Wait until the kernel has accepted all bytes.

        Raises:
            ClientLeft: The connection is closed.
        """
        await asyncio.sleep(0)
        while self._transport.get_write_buffer_size():
            self.check()
            await asyncio.sleep(_POLL_SECONDS)
        self.check()

    async def drop(self, how: Literal["close", "reset"]) -> None:
        """Close or reset the connection without ending the response."""
        if how == "reset":
            # Linger for zero seconds: the kernel sends RST instead of FIN.
            raw: socket.socket = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        # If the application returned before the connection is lost, uvicorn would send a 500.
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
