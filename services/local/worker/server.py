"""Wiring of a worker: all four services in one process.

The settings and ports are those of four processes, so that `stackctl` and other gRPC clients work. The gateway and
quota call the other services through local adapters (services/local/adapters.py); only the console calls them over
gRPC. Several workers may share the ports, one for each core.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.auth import server as auth_server
from services.auth.settings import AuthSettings
from services.common.errors import StartError
from services.common.redis_url import redis_server
from services.common.runtime import process
from services.common.runtime.settings import ServiceSettings
from services.gateway import server as gateway_server
from services.gateway.clients.batched_quota import BatchedQuota
from services.gateway.settings import GatewaySettings
from services.inference import server as inference_server
from services.inference.settings import InferenceSettings
from services.local.adapters import (
    LocalAuthClient,
    LocalCounters,
    LocalDependencies,
    LocalIdempotencyStore,
    LocalInference,
    LocalLedger,
    LocalQuotaBatches,
    LocalReceipts,
    LocalReceiptSigner,
    LocalRefusalRecord,
    LocalResponseStore,
    LocalUsageWebhooks,
)
from services.quota import server as quota_server
from services.quota.settings import QuotaSettings


class WorkerSettings(ServiceSettings):
    """Settings that all services of a worker share. Each service also reads its own."""


async def serve(_: WorkerSettings) -> None:
    """Serve until stopped. The gateway stops first, then quota, inference and auth.

    Raises:
        StartError: A service cannot start.
    """
    auth_settings, inference_settings = process.read(AuthSettings), process.read(InferenceSettings)
    quota_settings, gateway_settings = process.read(QuotaSettings), process.read(GatewaySettings)
    _check_separate(inference_settings, quota_settings)
    stopping = process.StopSignal()
    async with AsyncExitStack() as stack:
        auth = await auth_server.build(auth_settings, stack)
        inference = await inference_server.build(inference_settings, stack)
        quota = await quota_server.build(
            quota_settings,
            stack,
            ledger=LocalLedger(inference.store, timeout_seconds=quota_settings.ledger_timeout_seconds),
            sweep_ledger=LocalLedger(inference.store, timeout_seconds=quota_server.SWEEP_LEDGER_SECONDS),
        )
        ports = _ports(auth, inference, quota, gateway_settings, default_model=inference_settings.default_model)
        tasks = [
            await stack.enter_async_context(_service(work, stopping))
            for work in (
                auth_server.serve(auth_settings, auth),
                inference_server.serve(inference_settings, inference),
                quota_server.serve(quota_settings, quota),
                gateway_server.serve(gateway_settings, ports),
            )
        ]
        # Until here, a signal cancels the start, which may wait long for a database.
        process.stop_signal(stopping)
        await _wait_for_first([asyncio.ensure_future(stopping.wait()), *tasks])


def _check_separate(inference: InferenceSettings, quota: QuotaSettings) -> None:
    """Refuse one Redis for stored responses and counters: one must evict keys, and the other must not.

    Raises:
        StartError: Both URLs are those of one server.
    """
    url = inference.responses_redis_url
    if url and redis_server(url) == redis_server(quota.redis_url):
        raise StartError(
            "INFERENCE_RESPONSES_REDIS_URL and QUOTA_REDIS_URL are the same Redis. Stored responses need a separate "
            "one, with a memory limit and an eviction policy; counters must not be evicted."
        )


def _ports(
    auth: auth_server.Parts,
    inference: inference_server.Parts,
    quota: quota_server.Parts,
    settings: GatewaySettings,
    *,
    default_model: str,
) -> gateway_server.Ports:
    receipt_seconds = gateway_server.RECEIPT_SECONDS_MAX
    return gateway_server.Ports(
        auth=LocalAuthClient(auth.key_verifier, auth.feed, timeout_seconds=settings.auth_timeout_seconds),
        quota=BatchedQuota(LocalQuotaBatches(quota.holds, timeout_seconds=settings.quota_timeout_seconds)),
        inference=LocalInference(
            inference.completions, inference.catalogue, inference.store, default_model=default_model
        ),
        counters=LocalCounters(quota.holds, timeout_seconds=receipt_seconds),
        ledger=LocalReceipts(inference.store, timeout_seconds=receipt_seconds),
        receipts=LocalReceiptSigner(inference.receipts, timeout_seconds=receipt_seconds),
        usage_webhooks=LocalUsageWebhooks(inference.webhooks, timeout_seconds=gateway_server.WEBHOOK_SECONDS_MAX),
        responses=LocalResponseStore(inference.responses, timeout_seconds=gateway_server.STORE_SECONDS_MAX),
        idempotency=LocalIdempotencyStore(inference.idempotency, timeout_seconds=gateway_server.STORE_SECONDS_MAX),
        refusals=LocalRefusalRecord(quota.refusals, timeout_seconds=settings.quota_timeout_seconds),
        dependencies=(LocalDependencies(inference.key_check, quota.redis),),
    )


@asynccontextmanager
async def _service(work: Coroutine[Any, Any, None], whole: process.StopSignal) -> "AsyncIterator[asyncio.Task[None]]":
    """Run one service during the block, and stop it at the end."""
    stopping = whole.part()
    task = asyncio.get_running_loop().create_task(work, context=process.with_shutdown_event(stopping))
    try:
        yield task
    finally:
        stopping.set()
        await task


async def _wait_for_first(tasks: "list[asyncio.Task[Any]]") -> None:
    """Return when one of the tasks is done."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
