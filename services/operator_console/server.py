"""Wiring, start and stop of the operators' console."""

import asyncio
import logging
import math
import socket
import time
from contextlib import AsyncExitStack
from functools import partial

import uvicorn
from grpc import aio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import StartError
from services.common.ids import Kind, new_id
from services.common.rpc.channel import open_channel
from services.common.runtime import process
from services.common.runtime.address import Address, bind
from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.common.web.assets import Assets
from services.common.web.forwarded import ForwardedHeaders
from services.common.web.origins import parse_origin
from services.common.web.request_id import REQUEST_ID
from services.common.web.server import Server
from services.operator_console.app import OperatorConsole, build_app
from services.operator_console.clients.health import HealthClient
from services.operator_console.clients.operators import OperatorClient
from services.operator_console.clients.sessions import SessionClient
from services.operator_console.clients.usage import UsageClient
from services.operator_console.page import STATIC, Pages
from services.operator_console.settings import OperatorConsoleSettings

_AUTH_SECONDS_MAX = 5.0
_USAGE_SECONDS_MAX = 6.0
"""Longer than inference's own limit for sums over all accounts."""
_CONNECTIONS_MAX = 200
_IDLE_SECONDS = 30
_log = logging.getLogger(__name__)


class _Readiness:
    """Whether auth was reached, without which no page can be shown, and the process is not stopping."""

    def __init__(self) -> None:
        self.is_ready = False

    async def begin(self, channel: aio.Channel) -> None:
        await channel.channel_ready()
        self.is_ready = True


class _RequestLog:
    """Middleware that gives requests an id and logs them, without their query, which has e-mail addresses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        started, status = time.perf_counter(), 0
        request_id = scope[REQUEST_ID] = new_id(Kind.REQUEST)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            milliseconds = round((time.perf_counter() - started) * 1_000, 1)
            fields = {"request_id": request_id, "method": scope["method"], "path": scope["path"][:200]}
            _log.info("request", extra={**fields, "status": status, "duration_ms": milliseconds})


async def serve(settings: OperatorConsoleSettings) -> None:
    """Serve until stopped.

    Raises:
        StartError: The certificates or the address cannot be used.
    """
    async with AsyncExitStack() as stack:
        certificates, readiness = settings.certificates(), _Readiness()
        channels = {
            name: await stack.enter_async_context(open_channel(target, certificates, service=name))
            for name, target in settings.targets
        }
        await stack.enter_async_context(running(restarting(partial(readiness.begin, channels["auth"]))))
        app = _RequestLog(ForwardedHeaders(_app(settings, channels, readiness), trusted_hosts=settings.trusted_proxies))
        await _listen(app, readiness, settings)


def _app(settings: OperatorConsoleSettings, channels: dict[str, aio.Channel], readiness: _Readiness) -> ASGIApp:
    def open_operator(token: str, address: str) -> OperatorClient:
        return OperatorClient(channels["auth"], token, address=address, timeout_seconds=_AUTH_SECONDS_MAX)

    assets = Assets(STATIC)
    return build_app(
        OperatorConsole(
            pages=Pages(SystemClock(), assets),
            assets=assets,
            sessions=SessionClient(channels["auth"], timeout_seconds=_AUTH_SECONDS_MAX),
            usage=UsageClient(channels["inference"], timeout_seconds=_USAGE_SECONDS_MAX),
            health=HealthClient(list(channels.items()), settings.gateway_url),
            open_operator=open_operator,
            is_ready=lambda: readiness.is_ready,
            hsts_seconds=settings.hsts_seconds,
            public=parse_origin(settings.public_url) if settings.public_url else None,
        )
    )


async def _listen(app: ASGIApp, readiness: _Readiness, settings: OperatorConsoleSettings) -> None:
    """Serve `app` until a stop signal, and then let requests in progress end."""
    stopping = process.stop_signal()
    sockets = _bind(settings)
    server = Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=max(1, math.ceil(min(settings.grace_seconds, _USAGE_SECONDS_MAX))),
        )
    )
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=sockets))
    _log.info("ready", extra={"listen": [str(Address(*one.getsockname()[:2])) for one in sockets]})
    await stopping.wait()
    readiness.is_ready = False
    await stopping.wait_for(serving, seconds=settings.drain_seconds)
    server.should_exit = True
    await serving


def _bind(settings: OperatorConsoleSettings) -> list[socket.socket]:
    try:
        return bind(Address(settings.host, settings.port))
    except StartError as exc:
        raise StartError(f"{exc}. Set OPERATOR_CONSOLE_HOST and OPERATOR_CONSOLE_PORT to a free address.") from exc
