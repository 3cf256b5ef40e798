"""The minimum of Python between a client and Groq: uvicorn and aiohttp, bytes in and out, without features."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

_UPSTREAM = os.environ["UPSTREAM"]
_CREDENTIAL = {"Authorization": "Bearer gsk_bench", "Content-Type": "application/json"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class PassThrough:
    """An ASGI application that forwards every POST to Groq."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan of the server."""
        match scope["type"]:
            case "lifespan":
                await self._live(receive, send)
            case "http" if scope["method"] == "POST":
                await self._pass(await _body(receive), send)
            case "http":
                await _answer(send, 200, b"")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _pass(self, body: bytes, send: Send) -> None:
        async with self._session.post(_UPSTREAM, data=body, headers=_CREDENTIAL) as answer:
            kind = answer.headers["content-type"].encode()
            if kind != b"text/event-stream":
                await _answer(send, answer.status, await answer.read(), kind)
                return
            await send({"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind)]})
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(send: Send, status: int, body: bytes, kind: bytes = b"text/plain") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = PassThrough()
