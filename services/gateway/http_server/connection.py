"""The asyncio protocol of one HTTP connection."""

import asyncio
import logging
import math
from collections import deque
from typing import Any, ClassVar, cast

import uvicorn
from starlette.types import Scope
from uvicorn.server import ServerState

from services.gateway.http.errors import HTTPError, internal_error
from services.gateway.http_server import rejections
from services.gateway.http_server.cycle import RequestCycle
from services.gateway.http_server.parsing import Rejected, RequestParser
from services.gateway.http_server.reading import KEPT_BYTES_MAX, Reading
from services.gateway.http_server.shared import Shared, SocketAddresses
from services.gateway.http_server.write_flow import WriteFlow

_DRAINED_BYTES_MAX = 262_144
"""Maximum remaining bytes of a body that are read and discarded to keep the connection open."""
_DRAIN_SECONDS = 30.0
_REFUSED_SECONDS = 5.0
_log = logging.getLogger(__name__)


class HTTPConnection(asyncio.Protocol):
    """The protocol of one connection, for uvicorn. `bound` creates a subclass with the state shared by all connections.

    Requests are answered one at a time. Pipelined requests are kept as bytes until the current request is complete, so
    that they take no more memory than their size.
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
        self._reading: Reading = None  # type: ignore[assignment]
        self.flow: WriteFlow = None  # type: ignore[assignment]
        self.deadline = math.inf
        self._addresses: SocketAddresses = None  # type: ignore[assignment]
        self._answering: RequestCycle | None = None
        self._receiving: RequestCycle | None = None
        self._waiting: deque[RequestCycle] = deque()
        self._refusal: HTTPError | None = None
        self._rejection: HTTPError | None = None
        self._is_last = False
        self._is_stopping = False

    @classmethod
    def bound(cls, shared: Shared) -> type["HTTPConnection"]:
        """Return the protocol class of one server, for `uvicorn.Config(http=…)`."""
        return type("BoundHTTPConnection", (cls,), {"shared": shared})

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass of it.
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._addresses = SocketAddresses(transport)
        self._reading = Reading(self._transport, self._loop)
        self.flow = WriteFlow(
            self._transport, self._loop, stall_seconds=self._limits.stall_seconds, on_stall=self._on_stall
        )
        self._refusal = self.shared.connections.admit(self, self._addresses.host)
        if self._refusal is None:
            self._set_deadline(self._limits.silent_seconds)
        elif self.shared.connections.may_linger():
            self._set_deadline(_REFUSED_SECONDS)
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self.shared.connections.release(self, self._addresses.host, was_refused=self._refusal is not None)
        for cycle in self._cycles():
            cycle.disconnect()
        self._waiting.clear()
        self._reading.drop()
        self.flow.close()
        self._parser.close()

    def data_received(self, data: bytes) -> None:
        if self._reading.is_dropped:
            self.deadline = self._reading.extend_linger()
        elif self._refusal is not None:
            self._reject_and_close(self._refusal)
        elif self._reading.unparsed or not self._may_parse():
            self._keep(data)
        else:
            if self._parser.is_between:
                self._set_deadline(self._limits.head_seconds)
            self._parse(data)

    def eof_received(self) -> None:
        """Return None, so that the transport closes: a client that ends its input has disconnected."""

    def pause_writing(self) -> None:
        self.flow.pause()

    def resume_writing(self) -> None:
        self.flow.resume()

    def shutdown(self) -> None:
        """Close after the response in progress. Called by uvicorn when the server stops."""
        self._is_stopping = True
        self._reading.unparsed.clear()
        for cycle in self._cycles():
            cycle.keep_alive = False
        if self._answering is None and self._parser.is_between:
            self._close()

    def _cycles(self) -> list[RequestCycle]:
        return [cycle for cycle in (self._answering, self._receiving, *self._waiting) if cycle is not None]

    # Reading.

    def _may_parse(self) -> bool:
        """Return whether the next bytes belong to the request in progress, or no request is in progress."""
        return self._answering is None or self._receiving is self._answering

    def _parse(self, data: bytes) -> None:
        try:
            rest = self._parser.feed(data, self._may_continue)
        except Rejected as exc:
            self._reject_input(exc.error)
            return
        except Exception as exc:  # noqa: BLE001
            # A bug in this project. uvloop would close the connection without a response and log a traceback.
            _log.error("request could not be parsed", extra={"error": repr(exc.__context__ or exc)[:200]})
            self._reject_input(internal_error())
            return
        if rest and not self._reading.is_dropped:
            self._keep(rest)
        if self._receiving is not None and not self._reading.is_paused:
            self._set_deadline(self._limits.body_idle_seconds)

    def _may_continue(self) -> bool:
        return self._may_parse() and not self._reading.is_dropped

    def _keep(self, data: bytes) -> None:
        if not (self._is_last or self._is_stopping):
            self._reading.keep(data)

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
            if self._receiving.kept_bytes > KEPT_BYTES_MAX:
                self._reading.pause()
                self.deadline = math.inf

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
        return self._addresses.scope(self._app_state)

    # The `Connection` protocol of a cycle.

    @property
    def date(self) -> bytes:
        """The `date` header line, which uvicorn updates every second."""
        return b"".join(b"%b: %b\r\n" % field for field in self._state.default_headers)

    def resume_reading(self) -> None:
        """Resume reading after the buffered body has been consumed."""
        if self._reading.resume() and self._receiving is not None:
            self._set_deadline(self._limits.body_idle_seconds)

    def will_drain(self, cycle: RequestCycle) -> bool:
        """Return whether the rest of the request's body will be read and discarded."""
        left = self._parser.body_left
        return left is not None and left <= _DRAINED_BYTES_MAX

    def on_response_complete(self, cycle: RequestCycle) -> None:
        """Continue with the next request, or close."""
        self._state.total_requests += 1
        self._answering = None
        if self._transport.is_closing():
            return
        if self._rejection is not None and not self._waiting:
            self._reject_and_close(self._rejection)
        elif not cycle.keep_alive:
            self._close()
        else:
            self._start_next()

    def abort(self) -> None:
        """Close the connection immediately."""
        self._reading.drop()
        self._transport.abort()

    # Between requests.

    def _start_next(self) -> None:
        self.resume_reading()
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._receiving is not None:
            self._set_deadline(_DRAIN_SECONDS)
        else:
            self._wait_for_next()
        if self._reading.unparsed and self._may_parse():
            self._parse(self._reading.take())
            self.resume_reading()

    def _wait_for_next(self) -> None:
        if self._parser.is_between:
            self._set_deadline(self._limits.keep_alive_seconds)
        else:
            self._set_deadline(self._limits.head_seconds)

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self._loop.time() + seconds

    def on_deadline(self) -> None:
        """Act on an expired deadline. Called by `Connections`."""
        self.deadline = math.inf
        if self._reading.is_dropped:
            self._transport.abort()
        elif self._receiving is not None or not self._parser.is_between:
            self._reject_input(rejections.TIMED_OUT)
        else:
            self._close()

    # Closing.

    def fail(self, error: HTTPError) -> None:
        """Respond to the current request with an error, and close."""
        self._reject_and_close(error)

    def _reject_input(self, error: HTTPError) -> None:
        """Respond to invalid input and close, after the request before it has been answered."""
        if self._answering is not None and self._receiving is not self._answering:
            self._rejection = error
            self._reading.drop()
        else:
            self._reject_and_close(error)

    def _reject_and_close(self, error: HTTPError) -> None:
        cycle = self._answering or self._receiving
        if cycle is not None and cycle.has_started:
            self.abort()
            return
        for one in self._cycles():
            one.disconnect()
        scope = cycle.scope if cycle is not None else self._parser.partial_scope()
        response = self.shared.rejections.response(error, scope, date=self.date)
        self.flow.write(response)
        self._linger()

    def _close(self) -> None:
        """Close after all data is written. Linger if the client is still sending, so that it can read the response."""
        if self._receiving is not None or self._reading.unparsed:
            self._linger()
        else:
            self._reading.drop()
            self.deadline = math.inf
            self._transport.close()
            self.flow.watch()

    def _linger(self) -> None:
        self.deadline = self._reading.linger()
        self.flow.watch()

    def _on_stall(self) -> None:
        if self._answering is None:
            self.abort()
