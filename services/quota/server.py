"""What the quota service is made of."""

import logging
from contextlib import AsyncExitStack

from services.common.rpc.channel import open_channel
from services.common.rpc.server import GrpcServer
from services.common.rpc.tls import identity
from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from services.quota.holds import Holds
from services.quota.ledger_client import GrpcLedger
from services.quota.redis.clock import RedisClock
from services.quota.redis.store import RedisHoldStore, connect
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.rpc import QuotaService
from services.quota.settings import QuotaSettings
from services.quota.sweeper import Sweeper
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_log = logging.getLogger(__name__)
_SERVICE = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"].full_name
_CALLERS = {_SERVICE: (identity("gateway"), identity("stackctl"))}
_SWEEP_LEDGER_SECONDS = 10.0
"""The sweeper counts whole days of many keys, and nobody waits for it."""


async def serve(settings: QuotaSettings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(GrpcServer(settings.listen, settings, callers=_CALLERS))
        stack.enter_context(metrics.served(settings.metrics_listen))
        client = connect(settings.redis, timeout_seconds=settings.redis_timeout_seconds)
        stack.push_async_callback(client.aclose)
        channel = await stack.enter_async_context(
            open_channel(settings.inference_target, settings.certificates(), service="inference")
        )
        ledger = GrpcLedger(channel, timeout_seconds=settings.ledger_timeout_seconds)
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
            GrpcLedger(channel, timeout_seconds=_SWEEP_LEDGER_SECONDS),
            clock,
            hold_seconds=settings.hold_seconds,
            sweep_seconds=settings.sweep_seconds,
            reconcile_seconds=settings.reconcile_seconds,
        )
        await stack.enter_async_context(running(restarting(sweeper.run)))

        quota_pb2_grpc.add_QuotaServiceServicer_to_server(
            QuotaService(Holds(store, ledger), sweeper, client.state), server.grpc
        )
        await server.run([_SERVICE])
