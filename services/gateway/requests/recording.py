"""Recording of a response while it is sent, and its replay."""

import logging
from collections.abc import Awaitable, Callable
from typing import Self

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.common.concurrency.byte_budget import Allocation
from services.common.errors import ServiceError
from services.gateway.http_server.write_flow import ClientStalled

_log = logging.getLogger(__name__)
_REPLAYED = b"idempotent-replayed"
"""The response header, as Stripe names it: `true` in a replay, `false` in the response to the first request."""
_STALE = b"x-ratelimit-"
"""Beginning of the names of headers that are not repeated: they say what is left of a limit."""

_encode = msgspec.msgpack.Encoder().encode


class RecordedAnswer(msgspec.Struct, array_like=True, frozen=True):
    """A response as it is stored."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def encode(self) -> bytes:
        """Return the answer as bytes."""
        return _encode(self)

    @classmethod
    def decode(cls, content: bytes) -> Self | None:
        """Return the answer of `encode`; None if it is not one that this version can read."""
        try:
            return msgspec.msgpack.decode(content, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None


Finish = Callable[[RecordedAnswer | None], Awaitable[None]]
"""Ends the request of a recorded answer; None if the answer is not kept."""


class ReplayedResponse(Response):
    """A response that sends a recorded answer."""

    def __init__(self, answer: RecordedAnswer) -> None:
        self._answer = answer
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        headers = [*self._answer.headers, (_REPLAYED, b"true")]
        await send({"type": "http.response.start", "status": self._answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": self._answer.body, "more_body": False})


class Recorder:
    """An ASGI `send` that records a response, and passes it on for as long as the client reads.

    Sending a message to a client that has disconnected does nothing, so that the whole response is recorded.

    Attributes:
        stall: The error of a client that is connected but does not read; None otherwise. It gets nothing more.
    """

    def __init__(self, send: Send, allocation: Allocation, *, bytes_max: int, finish: Finish) -> None:
        """Create a recorder.

        Args:
            send: Sends to the client.
            allocation: The bytes of recordings. If there are none left, the response is not kept.
            bytes_max: Maximum size of a body that is kept.
            finish: Awaited with the recorded answer before the end of the response is sent.
        """
        self._send = send
        self._allocation = allocation
        self._bytes_max = bytes_max
        self._finish = finish
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytearray | None = bytearray()
        self._is_stream = False
        self.stall: ClientStalled | None = None

    async def send(self, message: Message) -> None:
        """Record and pass on a message."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [header for header in message["headers"] if not header[0].startswith(_STALE)]
            await self._pass_on({**message, "headers": [*message["headers"], (_REPLAYED, b"false")]})
            return
        self._record(message.get("body", b""))
        if message.get("more_body", False):
            self._is_stream = True
            await self._pass_on(message)
        else:
            await self._end(message)

    async def _end(self, message: Message) -> None:
        """Finish the recording. The events of a stream do not wait for it, only the end of its body does."""
        if self._is_stream:
            await self._pass_on({**message, "more_body": True})
            message = {**message, "body": b""}
        try:
            await self._finish(self._answer())
        finally:
            await self._pass_on(message)

    def _record(self, part: bytes) -> None:
        if self._body is None:
            return
        try:
            if len(self._body) + len(part) <= self._bytes_max:
                self._allocation.take(len(part))
                self._body += part
                return
        except ServiceError as exc:
            _log.warning("An answer is not kept for repeats.", extra={"reason": exc.reason})
        self._body = None
        self._allocation.release()

    def _answer(self) -> RecordedAnswer | None:
        return None if self._body is None else RecordedAnswer(self._status, self._headers, bytes(self._body))

    async def _pass_on(self, message: Message) -> None:
        if self.stall is not None:
            return
        try:
            await self._send(message)
        except ClientStalled as exc:
            self.stall = exc
