"""One address in front of several servers, like a virtual IP: open connections stay with their server."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TCPProxy:
    """Forwards bytes to one server.

    Attributes:
        port: Where it listens, on the loopback address.
        target: Port of the server for new connections.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, listening: threading.Event, ending: asyncio.Event) -> None:
        """Serve until `ending` is set, and end all connections."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                listening.set()
                await ending.wait()
                server.close()
            for writer in self._writers:
                writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.create_task(self._connect(reader, writer))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self._writers.append(there_writer)
        await asyncio.gather(_pass_on(reader, there_writer), _pass_on(there_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
        await writer.wait_closed()


@contextmanager
def running_proxy(target: int) -> Iterator[TCPProxy]:
    """Run a proxy in a separate thread for the block."""
    proxy, listening, ending = TCPProxy(target), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(listening, ending),))
    thread.start()
    listening.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()
        loop.close()
