"""Wiring of the inference service."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.concurrency.byte_budget import ByteBudget
from services.common.db import database
from services.common.errors import StartError
from services.common.price_file import read_prices
from services.common.rpc import status_rpc
from services.common.rpc.server import GrpcServer
from services.common.rpc.status_rpc import DependencyStatus, StatusService, database_status
from services.common.rpc.tls import identity
from services.common.runtime import secret_file
from services.common.runtime.clock import SystemClock
from services.common.runtime.tasks import restarting, running
from services.common.telemetry import metrics
from services.inference.allowance.wiring import open_view
from services.inference.catalogue import Catalogue
from services.inference.groq.provider import GroqProvider, open_groq
from services.inference.idempotency.keys import KeysByKind, StoredIdempotencyKeys
from services.inference.idempotency.model import IdempotencyKeys
from services.inference.idempotency.rpc import IdempotencyService
from services.inference.key_pool.check import KeyCheck, KeyState
from services.inference.key_pool.pool import KeyPool
from services.inference.ledger.export_rpc import UsageExportService
from services.inference.ledger.maintenance import maintained
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.users import UserDigests
from services.inference.ledger.writer import Ledger
from services.inference.metrics import export_keys
from services.inference.operators.groq_keys import GroqKeys
from services.inference.operators.rpc import OperatorUsageService
from services.inference.receipts.rpc import ReceiptService
from services.inference.receipts.signer import ReceiptSigner
from services.inference.receipts.wiring import receipt_keys
from services.inference.requests.lifecycle import Completions, Timeouts
from services.inference.requests.queue import UpstreamQueue
from services.inference.requests.slots import Limits
from services.inference.requests.upstream import ModelLister, Upstream
from services.inference.responses.model import ResponseStore
from services.inference.responses.rpc import StoredResponseService
from services.inference.rpc import InferenceService, UsageService
from services.inference.settings import InferenceSettings
from services.inference.webhooks.alert_rpc import UsageAlertService
from services.inference.webhooks.alerts import WebhookAlerts
from services.inference.webhooks.rpc import UsageWebhookService
from services.inference.webhooks.service import Webhooks
from services.inference.webhooks.wiring import open_webhooks
from stack.common.v1 import status_pb2_grpc
from stack.inference.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
    export_pb2,
    export_pb2_grpc,
    idempotency_pb2,
    idempotency_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    operators_pb2,
    operators_pb2_grpc,
    receipts_pb2,
    receipts_pb2_grpc,
    responses_pb2,
    responses_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)

if TYPE_CHECKING:
    from services.inference.responses.wiring import Stores

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "inference_alembic_version"

_SPARE_CONNECTIONS = 2
"""For model lists and key checks, which run next to the calls."""
_FLUSH_SECONDS_MIN = 3.0
"""Minimum time to write the last rows, even if requests took the whole shutdown grace period."""

_QUEUES = {"stack_upstream_queue_requests": "requests for Groq", "stack_ledger_rows_waiting": "ledger rows"}
CALLERS = {
    status_rpc.SERVICE_NAME: (identity("stackctl"),),
    alerts_pb2.DESCRIPTOR.services_by_name["UsageAlertService"].full_name: (identity("gateway"),),
    export_pb2.DESCRIPTOR.services_by_name["UsageExportService"].full_name: (identity("stackctl"),),
    idempotency_pb2.DESCRIPTOR.services_by_name["IdempotencyService"].full_name: (identity("gateway"),),
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name: (identity("gateway"),),
    operators_pb2.DESCRIPTOR.services_by_name["OperatorUsageService"].full_name: (identity("operator-console"),),
    receipts_pb2.DESCRIPTOR.services_by_name["ReceiptService"].full_name: (identity("gateway"),),
    responses_pb2.DESCRIPTOR.services_by_name["StoredResponseService"].full_name: (
        identity("gateway"),
        identity("stackctl"),
    ),
    webhooks_pb2.DESCRIPTOR.services_by_name["UsageWebhookService"].full_name: (
        identity("gateway"),
        identity("stackctl"),
    ),
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name: tuple(
        identity(name) for name in ("gateway", "quota", "stackctl")
    ),
}
"""Which callers each service accepts (docs/internal-callers.md)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The domain objects of inference."""

    completions: Completions
    catalogue: Catalogue
    key_check: KeyCheck
    groq_keys: GroqKeys
    ledger: Ledger
    store: SQLLedgerStore
    receipts: ReceiptSigner
    webhooks: Webhooks
    webhook_alerts: WebhookAlerts
    responses: ResponseStore | None
    """None if responses are not stored."""
    idempotency: IdempotencyKeys | None
    """None if idempotency keys are ignored."""


async def serve(settings: InferenceSettings, parts: Parts | None = None) -> None:
    """Serve until stopped.

    Args:
        settings: The service's settings.
        parts: Domain objects that `build` made for this process; None builds them here.

    Raises:
        StartError: There is no Groq key, or the database or the address cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(metrics.served(settings.metrics_listen))
        server = await stack.enter_async_context(GrpcServer(settings.listen, settings, callers=CALLERS))
        if parts is None:
            parts = await build(settings, stack)
        service = InferenceService(
            parts.completions, parts.catalogue, key_check=parts.key_check, default_model=settings.default_model
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server.grpc)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageService(parts.store), server.grpc)
        export_pb2_grpc.add_UsageExportServiceServicer_to_server(UsageExportService(parts.store), server.grpc)
        operators_pb2_grpc.add_OperatorUsageServiceServicer_to_server(
            OperatorUsageService(parts.store, parts.groq_keys, SystemClock()), server.grpc
        )
        webhooks_pb2_grpc.add_UsageWebhookServiceServicer_to_server(UsageWebhookService(parts.webhooks), server.grpc)
        alerts_pb2_grpc.add_UsageAlertServiceServicer_to_server(
            UsageAlertService(parts.store, parts.webhook_alerts), server.grpc
        )
        receipts_pb2_grpc.add_ReceiptServiceServicer_to_server(ReceiptService(parts.receipts), server.grpc)
        responses_pb2_grpc.add_StoredResponseServiceServicer_to_server(
            StoredResponseService(parts.responses), server.grpc
        )
        idempotency_pb2_grpc.add_IdempotencyServiceServicer_to_server(
            IdempotencyService(parts.idempotency), server.grpc
        )
        status_pb2_grpc.add_StatusServiceServicer_to_server(
            StatusService(partial(_dependencies, parts), _QUEUES), server.grpc
        )
        await server.run(list(CALLERS), on_drain=service.drain)
        # No call is left. Answers that are still read from Groq have the rest of the grace, and so have rows.
        await server.wait_in_grace(parts.completions.finish())
        await parts.completions.close()
        await parts.ledger.close(timeout_seconds=max(_FLUSH_SECONDS_MIN, server.grace_left_seconds))


async def _dependencies(parts: Parts) -> Sequence[DependencyStatus]:
    check = parts.key_check
    state = "unknown" if check.state is KeyState.UNCHECKED else check.state.value
    return [await database_status(parts.store.has_several_accounts), DependencyStatus("groq", state, check.message)]


async def build(settings: InferenceSettings, stack: AsyncExitStack) -> Parts:
    """Return the domain objects, which live as long as `stack`.

    Raises:
        StartError: There is no Groq key, the secret of stored responses is missing, or the keys of receipts, the
            prices or the database cannot be used.
    """
    if not settings.keys:
        raise StartError("No Groq key is set. Set GROQ_API_KEY, or GROQ_API_KEYS to a comma-separated list.")
    prices = read_prices(settings.prices_file)
    stores, keys_of_receipts = _open_stores(settings, stack), receipt_keys(settings)
    store = await _open_ledger(settings, stack)
    ledger = Ledger(store, wait_seconds=settings.ledger_wait_seconds, rows_max=settings.ledger_rows_max)
    provider = await _open_provider(settings, stack)
    keys = KeyPool(
        len(settings.keys),
        SystemClock(),
        cooldown_seconds_max=settings.key_cooldown_seconds_max,
        failures_max=settings.breaker_failures,
    )
    export_keys(keys)
    catalogue = Catalogue(
        ModelLister(provider.list_models, keys),
        settings.model_aliases,
        allowed=settings.models_allowed,
        fallbacks=settings.model_fallbacks,
    )
    await stack.enter_async_context(running(restarting(catalogue.refresh_periodically)))
    key_check = KeyCheck(provider.check_key, keys_count=len(settings.keys))
    await stack.enter_async_context(running(restarting(key_check.run)))
    view = open_view(settings, stack)
    queue = UpstreamQueue(
        keys,
        view,
        Limits(settings.concurrency_max, settings.calls_per_account_max, settings.queue_requests_max),
        clock=SystemClock(),
        is_shared=await store.has_several_accounts(),
    )
    completions = Completions(
        provider,
        catalogue,
        _upstream(settings, keys, queue),
        ledger,
        ByteBudget(total_max=settings.request_bytes_max, share_max=settings.request_bytes_max // 2),
        prices=prices,
        clock=SystemClock(),
        timeouts=Timeouts(
            total=settings.request_timeout_seconds,
            first_byte=settings.first_byte_timeout_seconds,
            idle=settings.idle_timeout_seconds,
        ),
        users=UserDigests(_user_secret(settings)),
    )
    receipts = ReceiptSigner(store, keys_of_receipts, SystemClock())
    webhooks, webhook_alerts = await open_webhooks(settings, store, stack)
    responses = stores.responses if stores else None
    return Parts(
        completions,
        catalogue,
        key_check,
        GroqKeys(keys, key_check, view),
        ledger,
        store,
        receipts=receipts,
        webhooks=webhooks,
        webhook_alerts=webhook_alerts,
        responses=responses,
        idempotency=_idempotency(settings, stores, store),
    )


def _open_stores(settings: InferenceSettings, stack: AsyncExitStack) -> "Stores | None":
    if not settings.responses_redis:
        return None
    from services.inference.responses.wiring import open_stores  # Loads the client of Redis, and encryption.

    return open_stores(settings, stack)


def _idempotency(settings: InferenceSettings, stores: "Stores | None", ledger: SQLLedgerStore) -> KeysByKind | None:
    if stores is None:
        return None
    explicit = StoredIdempotencyKeys(stores.records, stores.answers, ledger)
    implicit = StoredIdempotencyKeys(stores.retried_records, stores.retried_answers, ledger)
    return KeysByKind(
        explicit if settings.idempotency_seconds else None, implicit if settings.deduplication_seconds else None
    )


async def _open_ledger(settings: InferenceSettings, stack: AsyncExitStack) -> SQLLedgerStore:
    engine = await stack.enter_async_context(
        database.open_database(
            settings.ledger_url,
            migrations=MIGRATIONS,
            version_table=VERSION_TABLE,
            reuse_port=settings.reuse_port,
        )
    )
    await stack.enter_async_context(
        maintained(engine, settings.ledger_url, retention_days=settings.ledger_retention_days)
    )
    return SQLLedgerStore(engine, stack.enter_context(database.open_writer(settings.ledger_url)))


async def _open_provider(settings: InferenceSettings, stack: AsyncExitStack) -> GroqProvider:
    transport = await stack.enter_async_context(
        open_groq(
            settings.keys,
            base_url=settings.groq_base_url,
            connections_max=settings.concurrency_max + _SPARE_CONNECTIONS,
            connect_timeout_seconds=settings.connect_timeout_seconds,
        )
    )
    return GroqProvider(transport, answer_bytes_max=settings.answer_bytes_max)


def _user_secret(settings: InferenceSettings) -> str:
    configured = settings.user_secret.get_secret_value()
    if configured or not database.is_sqlite(settings.ledger_url):
        return configured
    return secret_file.read_or_create(settings.data_dir / "user-secret")


def _upstream(settings: InferenceSettings, keys: KeyPool, queue: UpstreamQueue) -> Upstream:
    return Upstream(
        keys,
        queue,
        attempts_max=settings.attempts_max,
        wait_seconds=settings.queue_seconds,
        clock=SystemClock(),
    )


async def migrate(settings: InferenceSettings) -> None:
    """Migrate the ledger's schema to the latest version."""
    await database.migrate(settings.ledger_url, migrations=MIGRATIONS, version_table=VERSION_TABLE)
