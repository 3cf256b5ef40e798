"""The gateway's HTTP server with a test application, on its own thread and event loop."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.runtime.address import Address
from services.gateway.apis.surfaces import render_error
from services.gateway.http.cors import CORSPolicy
from services.gateway.http_server import listener
from services.gateway.http_server.connection import HTTPConnection
from services.gateway.http_server.connections import Connections
from services.gateway.http_server.limits import Limits
from services.gateway.http_server.rejections import Rejections
from services.gateway.http_server.shared import Shared
from services.gateway.http_server.write_flow import ClientStalled

_PATIENCE_SECONDS = 10.0


class Application:
    """An ASGI application that answers with what it received, and records it.

    Attributes:
        seen: Method, path and body of each request that was read to its end.
        gate: Requests to `/wait` are answered when it is open.
        ended: What `receive` or `send` reported of clients that disconnected or stalled, by path.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.started: list[str] = []
        self.gate = threading.Event()
        self.ended: list[tuple[str, str]] = []
        self.parts = [b"x" * 65_536] * 16

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.append(scope["path"])
        match scope["path"]:
            case "/early":
                await _answer(send, b"early")
            case "/stream":
                await self._stream(send)
            case "/wait":
                await self._wait(scope, receive, send)
            case "/defect":
                raise RuntimeError("a defect")
            case _:
                body = await self._read(receive)
                if body is None:
                    return
                self.seen.append((scope["method"], scope["path"], body))
                facts = {name: scope[name] for name in ("method", "path", "http_version")}
                facts["headers"] = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
                await _answer(send, json.dumps({**facts, "bytes": len(body)}).encode())

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body; None when it broke off."""
        parts = []
        while (message := await receive())["type"] == "http.request":
            parts.append(message["body"])
            if not message["more_body"]:
                return b"".join(parts)
        return None

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._read(receive)
        left = asyncio.ensure_future(receive())
        while not (self.gate.is_set() or left.done()):
            await asyncio.sleep(0.01)
        if left.done():
            self.ended.append((scope["path"], left.result()["type"]))
        left.cancel()
        await _answer(send, b"waited")

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for part in self.parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"the end"})
        except ClientStalled:
            self.ended.append(("/stream", "stalled"))
            await send({"type": "http.response.body", "body": b"last words"})


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    """A running server."""

    port: int
    app: Application
    server: uvicorn.Server
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Unhandled exceptions reported to the event loop."""

    def connect(self, *, host: str = "127.0.0.1", receive_buffer: int = 0) -> "Client":
        """Return a new connection."""
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect((host, self.port))
        return Client(connection)

    @property
    def open_connections(self) -> int:
        """How many connections the server has."""
        return len(self.server.server_state.connections)


@contextmanager
def serving(
    limits: Limits | None = None, *, origins: tuple[str, ...] = ("*",), app: ASGIApp | None = None
) -> Iterator[Running]:
    """Serve an application for the block, as the gateway does."""
    limits = limits or Limits()
    own = Application()
    rejections = Rejections(new_request_id=lambda: "req_TEST", cors=CORSPolicy(origins), render_error=render_error)
    protocol = HTTPConnection.bound(Shared(limits, Connections(limits), rejections))
    (open_socket,) = listener.bind(Address("127.0.0.1", 0), is_shared=False)
    config = uvicorn.Config(
        app or own,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    running = Running(open_socket.getsockname()[1], own, uvicorn.Server(config))
    thread = threading.Thread(target=_run, args=(running, open_socket), daemon=True)
    thread.start()
    try:
        until(lambda: running.server.started)
        yield running
    finally:
        own.gate.set()
        running.server.should_exit = True
        thread.join(_PATIENCE_SECONDS)
        assert not thread.is_alive(), "the server did not stop"
    assert running.errors == []


def _run(running: Running, open_socket: socket.socket) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: running.errors.append(context))
        await running.server.serve(sockets=[open_socket])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@dataclass
class Response:
    """A response as received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """A raw connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send parts, each in its own segment as far as the kernel allows."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            self.socket.sendall(part)

    def read(self) -> Response:
        """Return the next response."""
        head = self._until(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        code = int(status.split(" ")[1])
        if code == 100:
            return Response(code, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Response(code, headers, self._chunks())
        if "content-length" in headers:
            return Response(code, headers, self._exactly(int(headers["content-length"])))
        return Response(code, headers, self.rest())

    def rest(self) -> bytes:
        """Return everything until the server closes."""
        parts = [self._rest]
        self._rest = b""
        while data := self.socket.recv(65_536):
            parts.append(data)
        return b"".join(parts)

    def is_closed(self) -> bool:
        """Wait for the server to close without sending anything more."""
        return self.rest() == b""

    def leave(self) -> None:
        """Disconnect at once."""
        self.socket.close()

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._exactly(2) == b"\r\n"
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._rest:
            self._more()
        found, _, self._rest = self._rest.partition(end)
        return found + end

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._more()
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError(f"the server closed after {self._rest!r}")
        self._rest += data


def until(holds: Callable[[], bool], *, seconds: float = _PATIENCE_SECONDS) -> None:
    """Return when something holds."""
    waiting = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if holds():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came to hold")


def post(path: str, body: bytes = b"", *fields: str) -> bytes:
    """Return a POST as bytes."""
    lines = [f"POST {path} HTTP/1.1", "host: test", f"content-length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str, *fields: str) -> bytes:
    """Return a GET as bytes."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: test", *fields, "", ""]).encode()


__all__ = ["Application", "Client", "Message", "Response", "Running", "contextlib", "get", "post", "serving", "until"]
