"""Wiring, start and graceful shutdown of the gateway."""

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.common.concurrency.byte_budget import ByteBudget
from services.common.ids import Kind, new_id
from services.common.price_file import read_prices
from services.common.runtime import process
from services.common.runtime.address import Address
from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from services.common.web.forwarded import ForwardedHeaders
from services.common.web.server import Server
from services.gateway.alerts.runs import AlertRuns
from services.gateway.apis import routes, tokenizers
from services.gateway.apis.error_handlers import UNCOUNTED, ErrorHandlers, ExceptionHandlers
from services.gateway.apis.estimates import Estimator
from services.gateway.apis.model_aliases import model_aliases
from services.gateway.apis.model_facts import ModelFactsCache
from services.gateway.apis.plan_webhook import PlanWebhook
from services.gateway.apis.receipts import Counters, Ledger, Receipts
from services.gateway.apis.routes import API
from services.gateway.apis.signed_receipts import ReceiptSigner, SignedReceipts
from services.gateway.apis.stored_responses import StoredResponses
from services.gateway.apis.surfaces import Surfaces, render_error
from services.gateway.apis.usage_export import UsageExport
from services.gateway.apis.usage_webhook import UsageWebhookEndpoint, UsageWebhooks
from services.gateway.clients import inference, quota
from services.gateway.clients.alerts import ALERT_SECONDS_MAX, GrpcAlertRecords, GrpcAlertUsage
from services.gateway.clients.auth import GrpcAuthClient
from services.gateway.clients.batched_quota import BatchedQuota
from services.gateway.clients.channels import Channels, open_channels
from services.gateway.clients.dependencies import InferenceDependencies, QuotaDependencies
from services.gateway.clients.idempotency import GrpcIdempotencyStore
from services.gateway.clients.ledger import GrpcCounters, GrpcLedger
from services.gateway.clients.plan_events import GrpcPlanEvents
from services.gateway.clients.refusals import GrpcRefusalRecord
from services.gateway.clients.responses import GrpcResponseStore
from services.gateway.clients.signed_receipts import GrpcReceiptSigner
from services.gateway.clients.usage_webhooks import GrpcUsageWebhooks
from services.gateway.console.wiring import open_console
from services.gateway.dependencies import Dependencies, Source
from services.gateway.http.cors import CORSPolicy
from services.gateway.http.middleware import APIPaths, RequestScope
from services.gateway.http.paths import KEY_SET_PATH
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.http.responses import json_response
from services.gateway.http_server import listener
from services.gateway.http_server.connection import HTTPConnection
from services.gateway.http_server.connections import Connections
from services.gateway.http_server.limits import Limits
from services.gateway.http_server.rejections import Rejections
from services.gateway.http_server.shared import Shared
from services.gateway.keys.auth_cache import AuthCache
from services.gateway.keys.auth_client import AuthClient
from services.gateway.keys.refusals import RefusalRecord, Refusals
from services.gateway.keys.revocation import RevocationRegistry
from services.gateway.requests.handler import RequestHandler
from services.gateway.requests.idempotency import IdempotentRequests
from services.gateway.requests.idempotency_types import IdempotencyStore
from services.gateway.requests.in_flight import CANCEL_SECONDS_MAX, CompleteResponses, RequestsInFlight
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from services.gateway.requests.ports import Inference, Quota, ResponseStore
from services.gateway.requests.settlement import Settlements
from services.gateway.settings import GatewaySettings

_log = logging.getLogger(__name__)
_SETTLEMENT_SECONDS = 3.0
_REFUSALS_SECONDS = 0.5
RECEIPT_SECONDS_MAX = 2.0
PLAN_EVENT_SECONDS_MAX = 5.0
WEBHOOK_SECONDS_MAX = 5.0
STORE_SECONDS_MAX = 8.0
"""Longer than two attempts of inference to reach the Redis of stored responses."""
_WATCH_PAUSE_SECONDS = 0.5
"""Pause before a failed key watch restarts. A revoked key must be rejected within one second."""


class Readiness:
    """Readiness for new requests: `starting`, `ready` or `draining`."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.state = "starting"
        self._dependencies = dependencies

    async def begin(self, channels: Channels) -> None:
        """Become ready after all services have been reached. Later outages do not make the gateway unready."""
        ready = [one.channel_ready() for one in (channels.auth, channels.quota, channels.inference)]
        await asyncio.gather(*ready)
        if self.state == "starting":
            self.state = "ready"

    def is_draining(self) -> bool:
        """Return whether the gateway is shutting down."""
        return self.state == "draining"

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: return 200 while ready, else 503. The states of dependencies do not affect the status."""
        body = msgspec.json.encode({"status": self.state, "dependencies": self._dependencies.members()})
        return json_response(body, status=200 if self.state == "ready" else 503)


@dataclass(frozen=True, slots=True)
class Ports:
    """Clients of the other services."""

    auth: AuthClient
    quota: Quota
    inference: Inference
    counters: Counters
    ledger: Ledger
    receipts: ReceiptSigner
    usage_webhooks: UsageWebhooks
    responses: ResponseStore
    idempotency: IdempotencyStore
    refusals: RefusalRecord
    dependencies: Sequence[Source]


async def serve(settings: GatewaySettings, ports: Ports | None = None) -> None:
    """Run the gateway until the process is stopped.

    Args:
        settings: The service's settings.
        ports: Clients of services in this process; None calls them over gRPC.

    Raises:
        StartError: The prices or the address cannot be used.
    """
    tokenizers.load(settings.tokenizers)
    async with AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        channels = await open_channels(settings, stack)
        if ports is None:
            ports = await _grpc_ports(channels, settings, stack)
        revocations = RevocationRegistry(SystemClock())
        authenticator = AuthCache(ports.auth, SystemClock(), revocations, auth_cache_max=settings.auth_cache_max)
        dependencies = Dependencies(ports.dependencies)
        readiness = Readiness(dependencies)
        await stack.enter_async_context(running(restarting(dependencies.poll)))
        for watch in (authenticator.watch_invalidations, authenticator.watch_streams):
            await stack.enter_async_context(running(restarting(watch, pause_seconds=_WATCH_PAUSE_SECONDS)))
        await stack.enter_async_context(running(restarting(partial(readiness.begin, channels))))
        settlements = Settlements(ports.quota, ports.inference, abandoned_seconds=settings.call_seconds_max)
        idempotent = _idempotent(settings, ports)
        facts = ModelFactsCache(ports.inference)
        handler = _handler(settings, ports, settlements, idempotent, facts)
        await stack.enter_async_context(running(restarting(facts.poll)))
        if settings.alert_seconds:
            await stack.enter_async_context(running(restarting(_alert_runs(channels, settings).run)))
        surfaces = Surfaces(
            settings.chat_limits,
            facts,
            model_aliases(settings.model_aliases),
            ports.responses,
            body_bytes_max=settings.body_bytes_max,
        )
        refusals = Refusals(ports.refusals, SystemClock())
        await stack.enter_async_context(running(restarting(refusals.run)))
        api = API(handler, authenticator, ports.inference, revocations, surfaces, settings.chat_limits, refusals.count)
        cors = CORSPolicy(settings.cors_origins)
        requests = RequestsInFlight()
        console = None
        if settings.console:
            console = open_console(channels, api, ports.responses, cors, settings, is_draining=readiness.is_draining)
        app = build_app(
            api,
            Receipts(authenticator, ports.counters, ports.ledger, SystemClock()),
            SignedReceipts(authenticator, ports.receipts, SystemClock()),
            UsageExport(authenticator, ports.ledger, SystemClock()),
            UsageWebhookEndpoint(authenticator, ports.usage_webhooks),
            StoredResponses(authenticator, ports.responses),
            PlanWebhook(GrpcPlanEvents(channels.auth, timeout_seconds=PLAN_EVENT_SECONDS_MAX)),
            readiness,
            cors=cors,
            trusted_proxies=settings.trusted_proxies,
            console=console,
            requests=requests,
            handlers=ErrorHandlers(authenticator.known_key, refusals.count).handlers,
        )
        await _listen(app, readiness, cors, requests, settings)
        await idempotent.drain(timeout_seconds=min(_SETTLEMENT_SECONDS, settings.grace_seconds))
        await settlements.drain(timeout_seconds=min(_SETTLEMENT_SECONDS, settings.grace_seconds))
        await refusals.drain(timeout_seconds=min(_REFUSALS_SECONDS, settings.grace_seconds))


async def _grpc_ports(channels: Channels, settings: GatewaySettings, stack: AsyncExitStack) -> Ports:
    quota_seconds, call_seconds = settings.quota_timeout_seconds, settings.call_seconds_max
    quota_calls = await stack.enter_async_context(quota.multiplex_client(channels.quota, timeout_seconds=quota_seconds))
    inference_calls = await stack.enter_async_context(
        inference.multiplex_client(channels.inference, timeout_seconds=call_seconds)
    )
    return Ports(
        auth=GrpcAuthClient(channels.auth, timeout_seconds=settings.auth_timeout_seconds),
        quota=BatchedQuota(
            quota.GrpcQuotaBatches(channels.quota, timeout_seconds=quota_seconds, multiplexed=quota_calls)
        ),
        inference=inference.GrpcInference(
            channels.inference, timeout_seconds=call_seconds, multiplexed=inference_calls
        ),
        counters=GrpcCounters(channels.quota, timeout_seconds=RECEIPT_SECONDS_MAX),
        ledger=GrpcLedger(channels.inference, timeout_seconds=RECEIPT_SECONDS_MAX),
        receipts=GrpcReceiptSigner(channels.inference, timeout_seconds=RECEIPT_SECONDS_MAX),
        usage_webhooks=GrpcUsageWebhooks(channels.inference, timeout_seconds=WEBHOOK_SECONDS_MAX),
        responses=GrpcResponseStore(channels.inference, timeout_seconds=STORE_SECONDS_MAX),
        idempotency=GrpcIdempotencyStore(channels.inference, timeout_seconds=STORE_SECONDS_MAX),
        refusals=GrpcRefusalRecord(channels.quota, timeout_seconds=quota_seconds),
        dependencies=(InferenceDependencies(channels.inference), QuotaDependencies(channels.quota)),
    )


def _alert_runs(channels: Channels, settings: GatewaySettings) -> AlertRuns:
    return AlertRuns(
        GrpcAlertRecords(channels.auth, timeout_seconds=ALERT_SECONDS_MAX),
        GrpcAlertUsage(channels.inference, timeout_seconds=ALERT_SECONDS_MAX),
        GrpcCounters(channels.quota, timeout_seconds=ALERT_SECONDS_MAX),
        interval_seconds=settings.alert_seconds,
    )


def _idempotent(settings: GatewaySettings, ports: Ports) -> IdempotentRequests:
    recording_max = settings.recording_bytes_max
    return IdempotentRequests(
        ports.idempotency,
        ByteBudget(total_max=recording_max, share_max=recording_max // 2),
        bytes_max=settings.idempotent_answer_bytes_max,
    )


def _handler(
    settings: GatewaySettings,
    ports: Ports,
    settlements: Settlements,
    idempotent: IdempotentRequests,
    facts: ModelFactsCache,
) -> RequestHandler:
    budget = ByteBudget(total_max=settings.receiving_bytes_max, share_max=settings.receiving_bytes_per_client_max)
    estimator = Estimator(
        facts, read_prices(settings.prices_file), default_output_tokens=settings.default_output_tokens
    )
    return RequestHandler(
        ports.quota,
        ports.inference,
        settlements,
        RequestBodies(budget, bytes_max=settings.body_bytes_max),
        InvalidRequestLimiter(SystemClock(), per_second=settings.invalid_requests_per_second),
        idempotent,
        estimate=estimator.estimate,
        new_request_id=new_request_id,
        heartbeat_seconds=settings.heartbeat_seconds,
    )


def build_app(
    api: API,
    receipts: Receipts,
    signed_receipts: SignedReceipts,
    usage_export: UsageExport,
    usage_webhook: UsageWebhookEndpoint,
    stored_responses: StoredResponses,
    plan_webhook: PlanWebhook,
    readiness: Readiness,
    *,
    cors: CORSPolicy,
    trusted_proxies: Sequence[str] = (),
    console: ASGIApp | None = None,
    requests: RequestsInFlight,
    handlers: ExceptionHandlers = UNCOUNTED,
) -> Starlette:
    """Return the ASGI application.

    Args:
        api: The endpoints for chat requests and models.
        receipts: The endpoints of the usage API.
        signed_receipts: The endpoints of signed receipts.
        usage_export: The endpoint of exports.
        usage_webhook: The endpoint of an account's webhook.
        stored_responses: The endpoints of stored responses.
        plan_webhook: The endpoint of plan events.
        readiness: The endpoint `GET /readyz`.
        cors: The origins that may call the API.
        trusted_proxies: Addresses and networks of proxies whose forwarded headers are used.
        console: The application for all paths outside the API; None answers them with 404.
        requests: The registry of requests in flight, for their cancellation at shutdown.
        handlers: The exception handlers.
    """
    app = Starlette(
        routes=[
            Route("/api/v1/chat", routes.Endpoint(api.chat), methods=["POST"]),
            Route("/api/v1/chat/completions", routes.Endpoint(api.chat), methods=["POST"]),
            Route("/api/v1/completions", routes.Endpoint(api.completions), methods=["POST"]),
            Route("/api/v1/messages", routes.Endpoint(api.messages), methods=["POST"]),
            Route("/api/v1/messages/count_tokens", api.count_tokens, methods=["POST"]),
            Route("/api/v1/responses", routes.Endpoint(api.responses), methods=["POST"]),
            Route("/api/v1/responses/{id}/input_items", stored_responses.input_items),
            Route("/api/v1/responses/{id:path}", stored_responses.one, methods=["GET", "DELETE", "POST"]),
            *[Route(path, api.not_offered, methods=["POST"]) for path in routes.NOT_OFFERED],
            Route("/api/v1/models", api.models),
            Route("/api/v1/models/{id:path}", api.model),
            Route("/api/v1/key", receipts.key),
            Route("/api/v1/limits", receipts.limits),
            Route("/api/v1/usage", receipts.usage),
            Route("/api/v1/usage/export", usage_export.export),
            Route("/api/v1/usage/webhook", usage_webhook.one, methods=["GET", "POST", "DELETE"]),
            Route("/api/v1/usage/{request_id}", receipts.receipt),
            Route("/api/v1/usage/{request_id}/jws", signed_receipts.receipt),
            Route(KEY_SET_PATH, signed_receipts.key_set),
            Route("/api/v1/webhooks/plan", plan_webhook.receive, methods=["POST"]),
            Route("/api/v1/openapi.json", api.openapi),
            Route("/healthz", routes.healthz),
            Route("/readyz", readiness.readyz),
        ],
        middleware=[
            Middleware(ForwardedHeaders, trusted_hosts=list(trusted_proxies)),
            Middleware(RequestScope, new_request_id=new_request_id, is_draining=readiness.is_draining),
            Middleware(
                APIPaths,
                console=CompleteResponses(console, requests=requests, render_error=render_error) if console else None,
            ),
            cors.middleware(render_error),
            Middleware(CompleteResponses, requests=requests, render_error=render_error),
        ],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return app


def new_request_id() -> str:
    """Return a new unique request id: `req_` and a ULID."""
    return new_id(Kind.REQUEST)


async def _listen(
    app: Starlette, readiness: Readiness, cors: CORSPolicy, requests: RequestsInFlight, settings: GatewaySettings
) -> None:
    """Serve `app` until a stop signal, then drain, wait for requests in flight, and cancel the remaining ones."""
    stopping = process.stop_signal()
    listener.allow_connections(settings.connections_max)
    sockets = listener.bind(Address(settings.host, settings.port), is_shared=settings.reuse_port)
    server = Server(
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
            # A fallback: requests are cancelled earlier, with a response.
            timeout_graceful_shutdown=math.ceil(settings.grace_seconds + CANCEL_SECONDS_MAX),
        )
    )
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=sockets))
    _log.info("ready", extra={"listen": [str(Address(*one.getsockname()[:2])) for one in sockets]})
    await stopping.wait()
    readiness.state = "draining"
    await stopping.wait_for(serving, seconds=settings.drain_seconds)
    server.should_exit = True
    await stopping.wait_for(serving, seconds=settings.grace_seconds)
    requests.cancel_all()
    await serving


def http_protocol(settings: GatewaySettings, cors: CORSPolicy) -> type[asyncio.Protocol]:
    """Return the protocol class for uvicorn."""
    limits = Limits(
        head_bytes_max=settings.head_bytes_max,
        head_seconds=settings.head_timeout_seconds,
        stall_seconds=settings.stall_timeout_seconds,
        connections_max=settings.connections_max,
        connections_per_address_max=settings.connections_per_address_max,
        trusted_proxies=settings.trusted_proxies,
    )
    rejections = Rejections(new_request_id=new_request_id, cors=cors, render_error=render_error)
    return HTTPConnection.bound(Shared(limits, Connections(limits), rejections))
