"""A connection to Redis for one batch of commands at a time: one write, and one wake-up when all replies are there.

redis-py's connection awaits every reply separately, through a stream and under a time-out. This one uses redis-py's
options, TLS contexts, discovery of primaries and exceptions, but not its sockets.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from hiredis import Reader, pack_command
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError, InvalidResponse, ReadOnlyError, RedisError, ResponseError

from services.common.concurrency.fixed_timeout import FixedTimeout
from services.common.concurrency.stall_tolerant_timer import stall_tolerant_timeout

Command = tuple[Any, ...]
"""A command's name followed by its arguments, strings or numbers."""

_INCOMPLETE = object()


class BatchConnection(asyncio.Protocol):
    """An open connection. `open_connection` returns one that is ready for commands."""

    def __init__(self, timeout: "FixedTimeout[BatchConnection]") -> None:
        """Create a protocol whose batches are watched by `timeout`, which calls `time_out`."""
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._replies: list[Any] = []
        self._expected = 0
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._transport: asyncio.Transport
        self._closed = self._loop.create_future()

    @property
    def is_usable(self) -> bool:
        """Whether neither side has closed the connection."""
        return not self._transport.is_closing()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their replies in order; a failed command's reply is its exception.

        After any exception the connection is closed, so that a late reply is not mistaken for one of the next batch.

        Raises:
            RedisError, OSError: The server closed the connection, exceeded the time-out, cannot serve commands, or
                violated Redis' protocol. The commands may have taken effect.
        """
        self._replies, self._expected = [], len(commands)
        self._waiter = self._loop.create_future()
        self._timeout.watch(self)
        try:
            self._transport.write(b"".join(map(pack_command, commands)))
            return await self._waiter
        except BaseException:
            self.close()
            raise
        finally:
            self._waiter = None
            self._timeout.forget(self)

    def close(self) -> None:
        """Close the connection without sending what is still buffered."""
        self._transport.abort()

    def time_out(self) -> None:
        """Fail the batch that waits for replies, because of its time."""
        self._fail(TimeoutError("Redis did not answer in time."))

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse replies, and return them once the batch is complete."""
        if self._waiter is None or self._waiter.done():  # Not even a part of a reply may remain for the next batch.
            self._fail(InvalidResponse("a reply without a command"))
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                self._replies.append(reply)
        except RedisError as exc:
            self._fail(exc)
            return
        if len(self._replies) >= self._expected:
            self._complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the batch that waits for replies."""
        self._fail(exc or ConnectionError("Connection closed by server."))
        self._closed.set_result(None)

    def _complete(self) -> None:
        replies, self._replies = self._replies, []
        assert self._waiter is not None, "without a batch, nothing is parsed"
        if len(replies) > self._expected or self._reader.has_data():
            self._fail(InvalidResponse("a reply without a command"))
            return
        # Such a reply is about the connection, not the command: the server is loading, or the user is not known.
        failure = next((reply for reply in replies if isinstance(reply, ConnectionError)), None)
        if failure is None:
            self._waiter.set_result(replies)
        else:
            self._fail(failure)

    def _fail(self, exc: Exception) -> None:
        self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc)


async def open_connection(
    pool: ConnectionPool, timeout: FixedTimeout[BatchConnection], *, seconds_max: float
) -> BatchConnection:
    """Connect to the primary, authenticate and select the database.

    Args:
        pool: Pool with the options of the connection. It stays as it is.
        timeout: Watches batches, and calls `time_out` of their connections.
        seconds_max: Time-out of this call.

    Raises:
        RedisError, OSError: The server cannot be reached, is a replica, or rejected the user.
    """
    options: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    async with stall_tolerant_timeout(seconds_max):
        try:
            connection = await _connect(pool, options, partial(BatchConnection, timeout))
        except OSError:
            raise
        except ValueError as exc:  # An invalid host name, or an invalid option of TLS.
            raise ConnectionError(str(exc)) from exc
        try:
            await _prepare(connection, options)
        except BaseException:
            connection.close()
            raise
    return connection


async def _connect(
    pool: ConnectionPool, options: AbstractConnection, factory: "partial[BatchConnection]"
) -> BatchConnection:
    loop = asyncio.get_running_loop()
    if isinstance(options, UnixDomainSocketConnection):
        _, connection = await loop.create_unix_connection(factory, options.path)
        return connection
    assert isinstance(options, Connection)
    host, port = options.host, options.port
    if isinstance(pool, SentinelConnectionPool):
        host, port = await pool.get_master_address()  # type: ignore[no-untyped-call]
    tls = options.ssl_context.get() if isinstance(options, SSLConnection) else None
    transport, connection = await loop.create_connection(factory, host, port, ssl=tls)
    if options.socket_keepalive:
        _keep_alive(transport.get_extra_info("socket"), options)
    return connection


def _keep_alive(connected: socket.socket, options: Connection) -> None:
    """Let the kernel detect that the peer of an idle connection is gone."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    keepalive_options = cast(Mapping[int, int | bytes], options.socket_keepalive_options)
    for option, value in keepalive_options.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)


async def _prepare(connection: BatchConnection, options: AbstractConnection) -> None:
    """Authenticate, select the database, and reject a replica, which would serve stale reads and refuse writes."""
    commands: list[Command] = []
    if options.username or options.password:
        user = (options.username,) if options.username else ()
        commands.append(("AUTH", *user, options.password or ""))
    if options.client_name:
        commands.append(("CLIENT", "SETNAME", options.client_name))
    if options.db:
        commands.append(("SELECT", options.db))
    *replies, role = await connection.run([*commands, ("ROLE",)])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    # A user who may not run ROLE finds out that the server is a replica from the first write.
    if not isinstance(role, ResponseError) and role[0] != b"master":
        raise ReadOnlyError("a replica")
