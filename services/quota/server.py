"""Wiring of the quota service."""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from services.common.rpc import status_rpc
from services.common.rpc.channel import open_channel
from services.common.rpc.server import GrpcServer
from services.common.rpc.status_rpc import DependencyStatus, StatusService
from services.common.rpc.tls import identity
from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from services.quota.holds import Holds, Ledger
from services.quota.ledger_client import GrpcLedger
from services.quota.redis.clock import RedisClock
from services.quota.redis.refusal_store import RedisRefusalStore
from services.quota.redis.state import RedisState
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.refusals import RefusalStore
from services.quota.rpc import QuotaService
from services.quota.settings import QuotaSettings
from services.quota.sweeper import Sweeper, SweepLedger
from stack.common.v1 import status_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_log = logging.getLogger(__name__)
_SERVICE = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"].full_name
CALLERS = {
    _SERVICE: (identity("gateway"), identity("stackctl")),
    status_rpc.SERVICE_NAME: (identity("stackctl"),),
}
"""Which callers each service accepts (docs/internal-callers.md)."""
SWEEP_LEDGER_SECONDS = 10.0
"""The sweeper counts whole days of many keys, and no client waits for it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The domain objects of quota."""

    holds: Holds
    sweeper: Sweeper
    redis: RedisState
    refusals: RefusalStore


async def serve(settings: QuotaSettings, parts: Parts | None = None) -> None:
    """Serve until stopped.

    Args:
        settings: The service's settings.
        parts: Domain objects that `build` made for this process; None builds them here.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(GrpcServer(settings.listen, settings, callers=CALLERS))
        stack.enter_context(metrics.served(settings.metrics_listen))
        if parts is None:
            channel = await stack.enter_async_context(
                open_channel(settings.inference_target, settings.certificates(), service="inference")
            )
            parts = await build(
                settings,
                stack,
                ledger=GrpcLedger(channel, timeout_seconds=settings.ledger_timeout_seconds),
                sweep_ledger=GrpcLedger(channel, timeout_seconds=SWEEP_LEDGER_SECONDS),
            )
        service = QuotaService(parts.holds, parts.sweeper, parts.redis, parts.refusals)
        quota_pb2_grpc.add_QuotaServiceServicer_to_server(service, server.grpc)
        status_pb2_grpc.add_StatusServiceServicer_to_server(
            StatusService(partial(_dependencies, parts.redis)), server.grpc
        )
        await server.run(list(CALLERS), on_drain=service.drain)


async def _dependencies(redis: RedisState) -> Sequence[DependencyStatus]:
    return [DependencyStatus("redis", redis.state.value, redis.message)]


async def build(settings: QuotaSettings, stack: AsyncExitStack, *, ledger: Ledger, sweep_ledger: SweepLedger) -> Parts:
    """Return the domain objects, which live as long as `stack`; the sweeper runs in the background.

    Args:
        settings: The service's settings.
        stack: Closes connections.
        ledger: Initialises counters; a client waits for it.
        sweep_ledger: The sweeper's ledger.
    """
    client = connect(settings.redis, timeout_seconds=settings.redis_timeout_seconds)
    stack.push_async_callback(client.aclose)
    clock = RedisClock(SystemClock().monotonic, hold_seconds=settings.hold_seconds)
    store = RedisHoldStore(
        client,
        hold_seconds=settings.hold_seconds,
        clock_offset_seconds=settings.clock_offset_seconds,
        clock=clock,
    )
    _log.info("clock", extra={"offset_seconds": settings.clock_offset_seconds})
    sweeper = Sweeper(
        RedisSweepStore(client, store),
        sweep_ledger,
        clock,
        hold_seconds=settings.hold_seconds,
        sweep_seconds=settings.sweep_seconds,
        reconcile_seconds=settings.reconcile_seconds,
    )
    await stack.enter_async_context(running(restarting(sweeper.run)))
    return Parts(Holds(store, ledger), sweeper, client.state, RedisRefusalStore(client))
