"""The server process: listening, ready line and immediate shutdown."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator

import uvicorn

from tools.groq_standin.app import App
from tools.groq_standin.chat import Settings
from tools.groq_standin.exchange import Protocol

_BACKLOG = 4096
_KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    """Uvicorn with a ready line, and with exit status 0 after a signal."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"groq stand-in listening on http://{shown}:{port}", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn raises the signal again after shutdown, which would make the exit status -15.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Port 0 picks a free port.

    Raises:
        OSError: The port is in use, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listen now. With SO_REUSEADDR, a second stand-in could otherwise bind the same port.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def inherit(descriptor: int) -> socket.socket:
    """Return the listening socket that the parent process opened.

    Raises:
        OSError: The descriptor is not a socket.
    """
    listener = socket.socket(fileno=descriptor)
    listener.listen(_BACKLOG)
    return listener


def run(listener: socket.socket, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Open streams are cut."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        App(settings),
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=0,
    )
    _Server(config).run([listener])
