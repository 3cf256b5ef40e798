"""Look-ups of hosts that users chose, in threads of their own.

A name's servers are its owner's, and may take any time to answer. In the event loop's threads, a few such look-ups
would delay those of Groq's host, and with them all requests.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

_THREADS_MAX = 32
"""More than the concurrent attempts: a look-up cannot be stopped, and may outlive its attempt."""


class TooManyLookups(OSError):
    """Look-ups of earlier attempts still take all threads."""


class Lookups:
    """Looks hosts up. Its threads do not delay the end of the process."""

    def __init__(self, *, threads_max: int = _THREADS_MAX, look_up: Callable[..., Any] = socket.getaddrinfo) -> None:
        """Use at most `threads_max` threads at a time; `look_up` replaces the operating system's function."""
        self._free = threads_max
        self._look_up = look_up

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host, each once.

        Raises:
            OSError: The host has no address, or there is no thread for the look-up.
            UnicodeError: The host is not a valid name.
        """
        if not self._free:
            raise TooManyLookups
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()
        thread = Thread(target=self._run, args=(loop, found, host, port), name="webhook-lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # The process may have no more threads.
            raise TooManyLookups from exc
        self._free -= 1
        return await found

    def _run(
        self, loop: asyncio.AbstractEventLoop, found: "asyncio.Future[Sequence[str]]", host: str, port: int
    ) -> None:
        result: Sequence[str] | Exception
        try:
            entries = self._look_up(host, port, type=socket.SOCK_STREAM)
            result = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except Exception as exc:  # noqa: BLE001 - passed to the caller
            result = exc
        with suppress(RuntimeError):  # The loop is closed, since the process ends.
            loop.call_soon_threadsafe(self._end, found, result)

    def _end(self, found: "asyncio.Future[Sequence[str]]", result: Sequence[str] | Exception) -> None:
        self._free += 1
        if found.done():  # Its attempt has ended.
            return
        if isinstance(result, Exception):
            found.set_exception(result)
        else:
            found.set_result(result)
