"""One connection: bytes in, requests to the application one after the other, and an end that loses no response."""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from services.gateway.errors import HTTPError
from services.gateway.http import rejections
from services.gateway.http.connections import Connections
from services.gateway.http.cycle import RequestCycle
from services.gateway.http.limits import Limits
from services.gateway.http.parsing import Rejected, RequestParser
from services.gateway.http.rejections import Rejections
from services.gateway.http.write_flow import WriteFlow

_KEPT_BYTES_MAX = 65_536
"""Of a body that the application does not take, or of requests behind the one under way; then reading pauses."""
_DRAINED_BYTES_MAX = 262_144
"""Left of a body that is worth reading and dropping to keep the connection."""
_LINGER_IDLE_SECONDS, _LINGER_SECONDS_MAX = 5.0, 30.0
"""How long a client may go on sending what is dropped, to read its response at last."""
_REFUSED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of one server have in common."""

    limits: Limits
    connections: Connections
    rejections: Rejections


class HTTPConnection(asyncio.Protocol):
    """uvicorn's protocol for one connection; `bound` gives it what it shares with the others.

    Requests are answered one after the other. What a client pipelines behind the request under way is kept as bytes and
    parsed in its turn, so that it costs no more than its size.
    """

    shared: ClassVar[Shared]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._limits = self.shared.limits
        self._parser = RequestParser(self, self._limits, self._make_scope)
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self.flow: WriteFlow = None  # type: ignore[assignment]
        self.deadline = math.inf
        self._server: tuple[str, int] | None = None
        self._client: tuple[str, int] | None = None
        self._answering: RequestCycle | None = None
        self._receiving: RequestCycle | None = None
        self._waiting: deque[RequestCycle] = deque()
        self._unparsed = bytearray()
        self._refusal: HTTPError | None = None
        self._rejection: HTTPError | None = None
        self._is_last = False
        self._is_stopping = False
        self._drops_input = False
        self._lingers_until = 0.0
        self._is_reading_paused = False

    @classmethod
    def bound(cls, shared: Shared) -> type["HTTPConnection"]:
        """Return the protocol class of one server, as `uvicorn.Config(http=…)` takes it."""
        return type("BoundHTTPConnection", (cls,), {"shared": shared})

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name.
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        self.flow = WriteFlow(
            self._transport, self._loop, stall_seconds=self._limits.stall_seconds, on_stall=self._on_stall
        )
        self._refusal = self.shared.connections.admit(self, self._client_host)
        if self._refusal is None:
            self._set_deadline(self._limits.silent_seconds)
        elif self.shared.connections.may_linger():
            self._set_deadline(_REFUSED_SECONDS)
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self.shared.connections.release(self, self._client_host, was_refused=self._refusal is not None)
        for cycle in (self._answering, self._receiving, *self._waiting):
            if cycle is not None:
                cycle.disconnect()
        self._waiting.clear()
        self._unparsed.clear()
        self._drops_input = True
        self.flow.close()
        self._parser.close()

    def data_received(self, data: bytes) -> None:
        if self._drops_input:
            self._linger_on()
        elif self._refusal is not None:
            self._reject_and_close(self._refusal)
        elif self._unparsed or not self._may_parse():
            self._keep_for_later(data)
        else:
            if self._parser.is_between:
                self._set_deadline(self._limits.head_seconds)
            self._parse(data)

    def eof_received(self) -> None:
        """Have the transport close: a client that sends no more has left."""

    def pause_writing(self) -> None:
        self.flow.pause()

    def resume_writing(self) -> None:
        self.flow.resume()

    def shutdown(self) -> None:
        """Close as soon as the request under way is answered; called by uvicorn when the server stops."""
        self._is_stopping = True
        self._unparsed.clear()
        for cycle in (self._answering, self._receiving, *self._waiting):
            if cycle is not None:
                cycle.keep_alive = False
        if self._answering is None and self._parser.is_between:
            self._close()

    # Reading.

    def _may_parse(self) -> bool:
        """Whether the next bytes are of the request under way, or there is none."""
        return self._answering is None or self._receiving is self._answering

    def _parse(self, data: bytes) -> None:
        try:
            rest = self._parser.feed(data, self._may_go_on)
        except Rejected as exc:
            self._reject_input(exc.error)
            return
        if rest and not self._drops_input:
            self._keep_for_later(rest)
        if self._receiving is not None and not self._is_reading_paused:
            self._set_deadline(self._limits.body_idle_seconds)

    def _may_go_on(self) -> bool:
        return self._may_parse() and not self._drops_input

    def _keep_for_later(self, data: bytes) -> None:
        if self._is_last or self._is_stopping:
            return
        self._unparsed += data
        if len(self._unparsed) > _KEPT_BYTES_MAX:
            self._pause_reading()

    def on_head(self, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        if self._is_last:
            return
        keep_alive = keep_alive and not self._is_stopping
        self._is_last = not keep_alive
        cycle = RequestCycle(scope, self._app, self, keep_alive=keep_alive, expects_continue=expects_continue)
        self._receiving = cycle
        self.deadline = math.inf
        if self._answering is None:
            self._start(cycle)
        else:
            self._waiting.append(cycle)

    def on_body_part(self, part: bytes) -> None:
        if self._receiving is not None:
            self._receiving.add_body(part)
            if self._receiving.kept_bytes > _KEPT_BYTES_MAX:
                self._pause_reading()

    def on_end(self) -> None:
        cycle, self._receiving = self._receiving, None
        if cycle is not None:
            cycle.complete_request()
            self.deadline = math.inf
            if self._answering is None and not self._waiting:
                self._wait_for_next()

    def _start(self, cycle: RequestCycle) -> None:
        self._answering = cycle
        task = self._loop.create_task(cycle.run())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _make_scope(self) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "state": self._app_state.copy(),
        }

    # What a cycle needs.

    @property
    def date(self) -> bytes:
        """The header line of the date, which uvicorn renews each second."""
        return _date_line(self._state.default_headers)

    def resume_reading(self) -> None:
        """Read on: the body that was kept is taken."""
        if self._is_reading_paused and not self._transport.is_closing() and len(self._unparsed) <= _KEPT_BYTES_MAX:
            self._is_reading_paused = False
            self._transport.resume_reading()
            if self._receiving is not None:
                self._set_deadline(self._limits.body_idle_seconds)

    def will_drain(self, cycle: RequestCycle) -> bool:
        """Whether what is left of the request's body will be read and dropped."""
        left = self._parser.body_left
        return left is not None and left <= _DRAINED_BYTES_MAX

    def on_response_complete(self, cycle: RequestCycle) -> None:
        """Go on with the next request, or close."""
        self._state.total_requests += 1
        self._answering = None
        if self._transport.is_closing():
            return
        if self._rejection is not None and not self._waiting:
            self._reject_and_close(self._rejection)
        elif not cycle.keep_alive:
            self._close()
        else:
            self._go_on()

    def abort(self) -> None:
        """End the connection at once."""
        self._drops_input = True
        self._transport.abort()

    # From one request to the next.

    def _go_on(self) -> None:
        self.resume_reading()
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._receiving is not None:
            self._set_deadline(_LINGER_SECONDS_MAX)
        else:
            self._wait_for_next()
        if self._unparsed and self._may_parse():
            data = bytes(self._unparsed)
            self._unparsed.clear()
            self._parse(data)
            self.resume_reading()

    def _wait_for_next(self) -> None:
        if self._parser.is_between:
            self._set_deadline(self._limits.keep_alive_seconds)
        else:
            self._set_deadline(self._limits.head_seconds)

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self._loop.time() + seconds

    def on_deadline(self) -> None:
        """End what has taken too long; `Connections` calls it."""
        self.deadline = math.inf
        if self._drops_input:
            self._transport.abort()
        elif self._receiving is not None or not self._parser.is_between:
            self._reject_input(rejections.TIMED_OUT)
        else:
            self._close()

    # The end.

    def fail(self, error: HTTPError) -> None:
        """Answer the request under way with an error, and close."""
        self._reject_and_close(error)

    def _reject_input(self, error: HTTPError) -> None:
        """Answer what cannot be understood, and close; the request before it is answered first."""
        if self._answering is not None and self._receiving is not self._answering:
            self._rejection, self._drops_input = error, True
        else:
            self._reject_and_close(error)

    def _reject_and_close(self, error: HTTPError) -> None:
        cycle = self._answering or self._receiving
        if cycle is not None and cycle.has_started:
            self.abort()
            return
        for one in (self._answering, self._receiving, *self._waiting):
            if one is not None:
                one.disconnect()
        response = self.shared.rejections.response(error, origin=self._parser.origin, date=self.date)
        self.flow.write(response)
        self._linger()

    def _close(self) -> None:
        """Close when all is written; where the client still sends, it could otherwise not read its response."""
        if self._receiving is not None or self._unparsed:
            self._linger()
        else:
            self._drops_input = True
            self.deadline = math.inf
            self.flow.watch()
            self._transport.close()

    def _linger(self) -> None:
        """Say that nothing more will come, and drop what the client sends until it has heard."""
        self._drops_input = True
        self._unparsed.clear()
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        if not self._transport.can_write_eof() or self._transport.is_closing():
            self._transport.close()
            return
        self._transport.write_eof()
        self.flow.watch()
        self._lingers_until = self._loop.time() + _LINGER_SECONDS_MAX
        self._set_deadline(_LINGER_IDLE_SECONDS)

    def _linger_on(self) -> None:
        if self._lingers_until:
            self.deadline = min(self._loop.time() + _LINGER_IDLE_SECONDS, self._lingers_until)

    def _on_stall(self) -> None:
        if self._answering is None:
            self.abort()

    def _pause_reading(self) -> None:
        if not (self._is_reading_paused or self._drops_input or self._transport.is_closing()):
            self._is_reading_paused = True
            self.deadline = math.inf
            self._transport.pause_reading()

    @property
    def _client_host(self) -> str:
        return self._client[0] if self._client else ""


def _address(info: Any) -> tuple[str, int] | None:
    """Return host and port of a TCP socket's address; None for others, which have none."""
    return (str(info[0]), int(info[1])) if isinstance(info, list | tuple) and len(info) >= 2 else None


def _date_line(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in headers)
