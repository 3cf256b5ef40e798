"""Redis client with a fast path for batches of commands.

redis-py's pipeline checks out a pooled connection, packs each argument separately and sets a time-out for each reply.
Batches have connections of their own; all other commands use redis-py's.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, MasterDownError, ReadOnlyError, RedisError

from services.common.concurrency.fixed_timeout import FixedTimeout
from services.common.redis.batch_connection import BatchConnection, Command, open_connection

_NO_PRIMARY = (ReadOnlyError, MasterDownError, ClusterDownError)
"""Errors of a replica, and of a server that has lost its primary."""


class BatchClient(Redis):
    """A client with separate connections for batches, each used by one batch at a time.

    Attributes:
        on_close: Callbacks that `aclose` runs last.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_close: list[Callable[[], Awaitable[None]]] = []
        self._idle: list[BatchConnection] = []
        self._is_closed = False
        self._seconds_max: float = self.connection_pool.connection_kwargs["socket_timeout"]
        self._timeout: FixedTimeout[BatchConnection] = FixedTimeout(self._seconds_max, BatchConnection.time_out)

    async def run_batch(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one batch and return their replies in order; a failed command's reply is its exception.

        Commands that a server refuses because it is not the primary are sent once more over a new connection. That
        reaches the new primary if both share an address. No command runs twice, since a refused command had no effect.

        Raises:
            RedisError, OSError: The server cannot be reached, or exceeded the client's time-out. The commands may have
                taken effect.
        """
        answers = await self._run_once(commands) if commands else []
        refused = [i for i, answer in enumerate(answers) if isinstance(answer, _NO_PRIMARY)]
        if refused:
            again = await self._run_once([commands[i] for i in refused])
            for i, answer in zip(refused, again, strict=True):
                answers[i] = answer
        return answers

    async def _run_once(self, commands: Sequence[Command]) -> list[Any]:
        try:
            connection = self._idle_connection() or await self._open_connection()
            answers = await connection.run(commands)
        except (RedisError, OSError):
            await self._close_idle()
            raise
        if any(isinstance(answer, _NO_PRIMARY) for answer in answers):
            connection.close()
            await self._close_idle()
        elif self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)
        return answers

    def _idle_connection(self) -> BatchConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        return None

    async def _open_connection(self) -> BatchConnection:
        return await open_connection(self.connection_pool, self._timeout, seconds_max=self._seconds_max)

    async def _close_idle(self) -> None:
        """Close idle connections, which lead to the same server as the one that failed."""
        while self._idle:
            self._idle.pop().close()
        await self.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections; those in use are closed when their batch ends."""
        self._is_closed = True
        while self._idle:
            connection = self._idle.pop()
            connection.close()
            await connection.wait_closed()
        await super().aclose(close_connection_pool)
        for close in self.on_close:
            await close()
