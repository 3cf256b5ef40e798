"""Pool of connections to one server, with a maximum number of them."""

import asyncio
from collections.abc import Awaitable, Callable

from services.inference.http.connection import Connection
from services.inference.http.errors import ConnectError, ConnectTimeout

Connect = Callable[[Callable[[Connection], None]], Awaitable[Connection]]


class ConnectionPool:
    """Connections that are idle, in use or being opened. Each of them takes one of the pool's places."""

    def __init__(
        self, connect: Connect, *, connections_max: int, connect_timeout_seconds: float, idle_seconds: float
    ) -> None:
        """Create an empty pool.

        Args:
            connect: Opens a connection that calls its argument after it has been closed.
            connections_max: Maximum number of connections.
            connect_timeout_seconds: Time-out of `acquire`: the wait for a place and the opening together.
            idle_seconds: Time after which an idle connection is closed.
        """
        self._connect = connect
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._free = connections_max
        """Free places."""
        self._open: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        """Idle connections and since when, in this order."""
        self._waiters: dict[asyncio.Future[Connection | None], None] = {}
        """Callers that wait for a place; they get it with an idle connection, or with None to open one."""
        self._expiry: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None
        """Done when all connections are closed; None until `close` is called."""

    def take_idle(self) -> Connection | None:
        """Return the connection that was used last; None if all are in use."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_open:
                return connection
            self._free_place()
        return None

    async def acquire(self) -> Connection:
        """Return an idle connection, or open one as soon as there is a place.

        Raises:
            ConnectError: There is no connection in time.
        """
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                return self.take_idle() or await self._wait() or await self._open_connection()
        except TimeoutError as exc:
            raise ConnectTimeout from exc

    def release(self, connection: Connection) -> None:
        """Take a connection back. It is closed unless its response was read to the end."""
        if not connection.is_reusable or self._closed is not None:
            connection.close()
            self._free_place()
        elif (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
        else:
            self._idle[connection] = self._loop.time()
            if self._expiry is None:
                self._expiry = self._loop.call_later(self._idle_seconds, self._expire)

    def close_idle(self, *, until: float) -> None:
        """Close the connections that have been idle since a time or longer."""
        while self._idle:
            connection, since = next(iter(self._idle.items()))
            if since > until:
                return
            self._close_idle(connection)

    async def close(self) -> None:
        """Close all connections, also those in use."""
        self._closed = self._loop.create_future()
        if self._expiry is not None:
            self._expiry.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(ConnectError())
        for connection in self._open:
            connection.close()
        if self._open:
            await self._closed

    async def _wait(self) -> Connection | None:
        """Wait for a place. Return the idle connection that has it, or None to open one."""
        if self._free:
            self._free -= 1
            return None
        waiter = self._loop.create_future()
        self._waiters[waiter] = None
        try:
            connection = await waiter
        except asyncio.CancelledError:
            self._waiters.pop(waiter, None)
            if not waiter.cancelled() and waiter.exception() is None:
                self._return(waiter.result())
            raise
        return connection if connection is not None and connection.is_open else None

    def _return(self, connection: Connection | None) -> None:
        """Return a place that a cancelled caller was given."""
        if connection is None:
            self._free_place()
        else:
            self.release(connection)

    async def _open_connection(self) -> Connection:
        """Open a connection on a place that the caller has."""
        try:
            if self._closed is not None:
                raise ConnectError
            connection = await self._connect(self._on_lost)
        except BaseException:
            self._free_place()
            raise
        if connection.is_open:  # Otherwise `_on_lost` may have been called already.
            self._open.add(connection)
        if self._closed is not None:
            self.release(connection)
            raise ConnectError
        return connection

    def _on_lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._idle.pop(connection, None) is not None:
            self._free_place()
        if self._closed is not None and not self._open and not self._closed.done():
            self._closed.set_result(None)

    def _free_place(self) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self._free += 1
        else:
            waiter.set_result(None)

    def _next_waiter(self) -> "asyncio.Future[Connection | None] | None":
        while self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            if not waiter.done():
                return waiter
        return None

    def _expire(self) -> None:
        """Close the connections that have been idle for too long, and set the timer for the next one."""
        self._expiry = None
        while self._idle:
            connection, since = next(iter(self._idle.items()))
            if since + self._idle_seconds > self._loop.time():
                self._expiry = self._loop.call_at(since + self._idle_seconds, self._expire)
                return
            self._close_idle(connection)

    def _close_idle(self, connection: Connection) -> None:
        del self._idle[connection]
        connection.close()
        self._free_place()
