"""What the gateway is made of, and how it listens and drains."""

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager

import uvicorn
from grpc import aio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.common import metrics, process
from services.common.channel import open_channel
from services.common.clock import SystemClock
from services.common.errors import StartError
from services.common.ids import Kind, new_id
from services.common.tasks import running
from services.gateway import routes
from services.gateway.backends import GrpcAuthority, GrpcInference, GrpcQuota
from services.gateway.console.wiring import open_console
from services.gateway.forwarded import ForwardedHeaders
from services.gateway.ledger_backend import GrpcCounters, GrpcLedger
from services.gateway.lifelines import Lifelines
from services.gateway.middleware import APIPaths, ConsolePaths, RequestScope
from services.gateway.pipeline import Pipeline
from services.gateway.presence import Leavers
from services.gateway.principals import PrincipalCache
from services.gateway.receipts import Receipts
from services.gateway.routes import API
from services.gateway.settings import GatewaySettings

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_SETTLES_SECONDS = 3.0
_PREFLIGHT_SECONDS = 600
_TOLD_TO_PAGES = (
    "x-request-id",
    "stack-processing-ms",
    "retry-after",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
"""Headers that a page's script may read; browsers hide all others."""
_RECEIPT_SECONDS_MAX = 2.0


class Readiness:
    """Whether new requests should come here: `starting`, `ready` or `draining`."""

    def __init__(self) -> None:
        """Begin with starting."""
        self.state = "starting"

    async def begin(self, channels: Sequence[aio.Channel]) -> None:
        """Become ready once every service was reached; what happens to them later is told request by request."""
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        if self.state == "starting":
            self.state = "ready"

    def is_draining(self) -> bool:
        """Whether the gateway is about to stop."""
        return self.state == "draining"

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: started and not draining."""
        body = f'{{"status":"{self.state}"}}'.encode()
        return routes.json_response(body, status=200 if self.state == "ready" else 503)


async def serve(settings: GatewaySettings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        certificates = settings.certificates()
        auth, quota, inference = [
            await stack.enter_async_context(open_channel(target, certificates, service=service))
            for service, target in settings.targets
        ]
        clock = SystemClock()
        lifelines = Lifelines(clock)
        principals = PrincipalCache(
            GrpcAuthority(auth, timeout_seconds=settings.auth_timeout_seconds),
            clock,
            lifelines,
            principals_max=settings.principals_max,
        )
        readiness = Readiness()
        await stack.enter_async_context(running(principals.keep_true()))
        await stack.enter_async_context(running(principals.keep_streams_true()))
        await stack.enter_async_context(running(readiness.begin((auth, quota, inference))))
        models = GrpcInference(inference, timeout_seconds=settings.total_timeout_seconds)
        pipeline = Pipeline(
            principals,
            GrpcQuota(quota, timeout_seconds=settings.quota_timeout_seconds),
            models,
            new_request_id=new_request_id,
        )
        receipts = Receipts(
            principals,
            GrpcCounters(quota, timeout_seconds=_RECEIPT_SECONDS_MAX),
            GrpcLedger(inference, timeout_seconds=_RECEIPT_SECONDS_MAX),
            SystemClock(),
        )
        api = API(
            pipeline,
            models,
            Leavers(settings.leavers_max),
            lifelines,
            body_bytes_max=settings.body_bytes_max,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        console = open_console((auth, quota, inference), api, models, settings) if settings.console else None
        app = build_app(
            api,
            receipts,
            readiness,
            cors_origins=settings.cors_origins,
            trusted_proxies=settings.trusted_proxies,
            console=console,
        )
        await _listen(app, readiness, settings)
        await pipeline.drain(timeout_seconds=min(_SETTLES_SECONDS, settings.grace_seconds))


def build_app(
    api: API,
    receipts: Receipts,
    readiness: Readiness,
    *,
    cors_origins: Sequence[str],
    trusted_proxies: Sequence[str] = (),
    console: ASGIApp | None = None,
) -> Starlette:
    """Return the ASGI application.

    Args:
        api: The handlers of chats and models.
        receipts: The handlers of what was used.
        readiness: The handler of `GET /readyz`.
        cors_origins: Origins whose pages may call it.
        trusted_proxies: Addresses and networks that are believed whom they forward.
        console: What answers all paths that are not the API's; None leaves them unknown.
    """
    app = Starlette(
        routes=[
            Route("/api/v1/chat", api.chat, methods=["POST"]),
            Route("/api/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/api/v1/models", api.models),
            Route("/api/v1/models/{id:path}", api.model),
            Route("/api/v1/key", receipts.key),
            Route("/api/v1/usage", receipts.usage),
            Route("/api/v1/usage/{request_id}", receipts.receipt),
            Route("/api/v1/openapi.json", routes.openapi),
            Route("/healthz", routes.healthz),
            Route("/readyz", readiness.readyz),
        ],
        middleware=[
            Middleware(ForwardedHeaders, trusted_hosts=list(trusted_proxies)),
            Middleware(RequestScope, new_request_id=new_request_id, is_draining=readiness.is_draining),
            *([Middleware(ConsolePaths, console=console)] if console else []),
            Middleware(
                CORSMiddleware,
                allow_origins=cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=_TOLD_TO_PAGES,
                max_age=_PREFLIGHT_SECONDS,
            ),
            Middleware(APIPaths),
        ],
        exception_handlers=routes.HANDLERS,
    )
    app.router.redirect_slashes = False
    return app


def new_request_id() -> str:
    """Return an id that was never used: `req_` and a ULID."""
    return new_id(Kind.REQUEST)


async def _listen(app: Starlette, readiness: Readiness, settings: GatewaySettings) -> None:
    """Serve `app` until a signal, then say so, let callers move away, and let requests finish."""
    stopping = process.stop_signal()
    listener = _bind(settings.host, settings.port, is_shared=settings.has_siblings)
    server = _Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
        )
    )
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    _log.info("ready", extra={"listen": "{}:{}".format(*listener.getsockname()[:2])})
    await stopping.wait()
    readiness.state = "draining"
    await asyncio.sleep(settings.drain_seconds)
    server.should_exit = True
    await serving


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: it would end the process by the signal instead of with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int, *, is_shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=is_shared)
    except OSError as exc:
        raise StartError(f"cannot listen on {host}:{port}: {exc.strerror}; set GATEWAY_PORT to a free port") from exc
