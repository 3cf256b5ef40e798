"""What the gateway is made of, and how it listens and drains."""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial

import msgspec
import uvicorn
from grpc import aio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.common.concurrency.byte_budget import ByteBudget
from services.common.ids import Kind, new_id
from services.common.rpc.channel import open_channel
from services.common.runtime import process
from services.common.runtime.address import Address
from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from services.gateway.apis import routes
from services.gateway.apis.receipts import Receipts
from services.gateway.apis.routes import API
from services.gateway.clients.dependencies import InferenceDependencies, QuotaDependencies
from services.gateway.clients.ledger import GrpcCounters, GrpcLedger
from services.gateway.clients.services import GrpcAuthClient, GrpcInference, GrpcQuota
from services.gateway.console.wiring import open_console
from services.gateway.dependencies import Dependencies
from services.gateway.http.cors import CORSPolicy
from services.gateway.http.forwarded import ForwardedHeaders
from services.gateway.http.middleware import APIPaths, ConsolePaths, Defects, RequestScope
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.http_server import listener
from services.gateway.http_server.connection import HTTPConnection
from services.gateway.http_server.connections import Connections
from services.gateway.http_server.limits import Limits
from services.gateway.http_server.rejections import Rejections
from services.gateway.http_server.shared import Shared
from services.gateway.keys.auth_cache import AuthCache
from services.gateway.keys.revocation import RevocationRegistry
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from services.gateway.requests.pipeline import Pipeline
from services.gateway.requests.shutdown import CUT_SECONDS, Cuttable, RequestsInFlight
from services.gateway.settings import GatewaySettings

_log = logging.getLogger(__name__)
_SETTLES_SECONDS = 3.0
_RECEIPT_SECONDS_MAX = 2.0
_WATCH_PAUSE_SECONDS = 0.5
"""Pause before a failed key watch starts again; a revoked key must be refused soon."""


class Readiness:
    """Whether new requests should come here: `starting`, `ready` or `draining`."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.state = "starting"
        self._dependencies = dependencies

    async def begin(self, channels: Sequence[aio.Channel]) -> None:
        """Become ready once every service was reached; what happens to them later is told request by request."""
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        if self.state == "starting":
            self.state = "ready"

    def is_draining(self) -> bool:
        """Whether the gateway is about to stop."""
        return self.state == "draining"

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: started and not draining; and how the services' dependencies are, which changes no status."""
        body = msgspec.json.encode({"status": self.state, "dependencies": self._dependencies.members()})
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
        revocations = RevocationRegistry(clock)
        authenticator = AuthCache(
            GrpcAuthClient(auth, timeout_seconds=settings.auth_timeout_seconds),
            clock,
            revocations,
            auth_cache_max=settings.auth_cache_max,
        )
        dependencies = Dependencies([InferenceDependencies(inference), QuotaDependencies(quota)])
        readiness = Readiness(dependencies)
        await stack.enter_async_context(running(restarting(dependencies.keep_fresh)))
        for watch in (authenticator.watch_invalidations, authenticator.watch_streams):
            await stack.enter_async_context(running(restarting(watch, pause_seconds=_WATCH_PAUSE_SECONDS)))
        await stack.enter_async_context(running(restarting(partial(readiness.begin, (auth, quota, inference)))))
        models = GrpcInference(inference, timeout_seconds=settings.request_timeout_seconds + settings.verdict_seconds)
        pipeline = Pipeline(
            authenticator,
            GrpcQuota(quota, timeout_seconds=settings.quota_timeout_seconds),
            models,
            new_request_id=new_request_id,
            abandoned_max=settings.abandoned_requests_max,
            abandoned_seconds=settings.request_timeout_seconds + settings.verdict_seconds,
        )
        receipts = Receipts(
            authenticator,
            GrpcCounters(quota, timeout_seconds=_RECEIPT_SECONDS_MAX),
            GrpcLedger(inference, timeout_seconds=_RECEIPT_SECONDS_MAX),
            SystemClock(),
        )
        budget = ByteBudget(total_max=settings.receiving_bytes_max, share_max=settings.receiving_bytes_per_client_max)
        api = API(
            pipeline,
            models,
            revocations,
            RequestBodies(budget, bytes_max=settings.body_bytes_max),
            InvalidRequestLimiter(SystemClock(), per_second=settings.invalid_requests_per_second),
            settings.chat_limits,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        cors = CORSPolicy(settings.cors_origins)
        requests = RequestsInFlight()
        console = open_console((auth, quota, inference), api, models, cors, settings) if settings.console else None
        app = build_app(
            api,
            receipts,
            readiness,
            cors=cors,
            trusted_proxies=settings.trusted_proxies,
            console=console,
            requests=requests,
        )
        await _listen(app, readiness, cors, requests, settings)
        await pipeline.drain(timeout_seconds=min(_SETTLES_SECONDS, settings.grace_seconds))


def build_app(
    api: API,
    receipts: Receipts,
    readiness: Readiness,
    *,
    cors: CORSPolicy,
    trusted_proxies: Sequence[str] = (),
    console: ASGIApp | None = None,
    requests: RequestsInFlight,
) -> Starlette:
    """Return the ASGI application.

    Args:
        api: The handlers of chats and models.
        receipts: The handlers of what was used.
        readiness: The handler of `GET /readyz`.
        cors: Whose pages may call it.
        trusted_proxies: Addresses and networks that are believed whom they forward.
        console: What answers all paths that are not the API's; None leaves them unknown.
        requests: Where requests are registered, for a stop to cut them.
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
            Route("/api/v1/openapi.json", api.openapi),
            Route("/healthz", routes.healthz),
            Route("/readyz", readiness.readyz),
        ],
        middleware=[
            Middleware(ForwardedHeaders, trusted_hosts=list(trusted_proxies)),
            Middleware(RequestScope, new_request_id=new_request_id, is_draining=readiness.is_draining),
            *([Middleware(ConsolePaths, console=Cuttable(console, requests=requests))] if console else []),
            cors.middleware(),
            Middleware(Defects),
            Middleware(Cuttable, requests=requests),
            Middleware(APIPaths),
        ],
        exception_handlers=routes.HANDLERS,
    )
    app.router.redirect_slashes = False
    return app


def new_request_id() -> str:
    """Return an id that was never used: `req_` and a ULID."""
    return new_id(Kind.REQUEST)


async def _listen(
    app: Starlette, readiness: Readiness, cors: CORSPolicy, requests: RequestsInFlight, settings: GatewaySettings
) -> None:
    """Serve `app` until a signal, then say so, let callers move away, let requests finish, and cut what is left."""
    stopping = process.stop_signal()
    listener.allow_connections(settings.connections_max)
    sockets = listener.bind(Address(settings.host, settings.port), is_shared=settings.reuse_port)
    server = _Server(
        uvicorn.Config(
            app,
            http=http_protocol(settings, cors),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=listener.BACKLOG,
            # The last resort: requests are cut before, with an answer.
            timeout_graceful_shutdown=math.ceil(settings.grace_seconds + CUT_SECONDS),
        )
    )
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=sockets))
    _log.info("ready", extra={"listen": [str(Address(*one.getsockname()[:2])) for one in sockets]})
    await stopping.wait()
    readiness.state = "draining"
    await stopping.wait_for(serving, seconds=settings.drain_seconds)
    server.should_exit = True
    await stopping.wait_for(serving, seconds=settings.grace_seconds)
    requests.cut()
    await serving


def http_protocol(settings: GatewaySettings, cors: CORSPolicy) -> type[asyncio.Protocol]:
    """Return the protocol that uvicorn serves connections with."""
    limits = Limits(
        head_bytes_max=settings.head_bytes_max,
        head_seconds=settings.head_timeout_seconds,
        stall_seconds=settings.stall_timeout_seconds,
        connections_max=settings.connections_max,
        connections_per_address_max=settings.connections_per_address_max,
        trusted_proxies=settings.trusted_proxies,
    )
    rejections = Rejections(new_request_id=new_request_id, cors=cors)
    return HTTPConnection.bound(Shared(limits, Connections(limits), rejections))


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: it would end the process by the signal instead of with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
