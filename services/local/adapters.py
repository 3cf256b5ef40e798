"""Local adapters: the gateway's and quota's ports to services that run in the same process.

They pass Python objects and keep gRPC's error semantics: a missed deadline is `Unavailable`, an unexpected exception is
logged and becomes an `InternalError`, and a `ServiceError` arrives unchanged.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager

import msgspec

from services.auth.keys.model import Denial, Key
from services.auth.keys.verifier import KeyVerifier
from services.auth.watch.feed import ChangeEvent, ChangeFeed
from services.common.concurrency.batch import Batcher
from services.common.concurrency.stall_tolerant_timer import stall_tolerant_timeout
from services.common.errors import InternalError, ServiceError, Unavailable
from services.common.verdict import RowVerdict
from services.gateway.apis.receipts import DayUsage, OwnedReceipt, ReceiptsPage
from services.gateway.apis.usage_webhook import UsageWebhook
from services.gateway.clients.batched_quota import (
    ReserveItem,
    SettleItem,
    counter_unavailable,
    not_settled,
    without_unlimited,
)
from services.gateway.clients.ledger import PAGE_ROWS, SCAN_ROWS, day_usage, receipt_of
from services.gateway.clients.usage_webhooks import usage_webhook_of
from services.gateway.dependencies import Dependency
from services.gateway.keys.auth_client import Authentication, WatchEvent
from services.gateway.keys.refusals import RefusedRequests
from services.gateway.requests.idempotency_types import Claim, ClaimState, IdempotencyKey
from services.gateway.requests.types import (
    Chat,
    Completion,
    CountedKey,
    Departure,
    Hold,
    JSONObject,
    LimitReached,
    Principal,
    RateLimit,
)
from services.inference.catalogue import Catalogue
from services.inference.chat import CallContext, ChatCall, Outcome
from services.inference.idempotency.model import Claimant, ClaimedKey, IdempotencyKeys
from services.inference.idempotency.model import enabled as idempotency_enabled
from services.inference.key_pool.check import KeyCheck, KeyState
from services.inference.ledger.writer import ChargedSum, LedgerStore, RequestsPage
from services.inference.receipts.signer import ReceiptSigner
from services.inference.requests.lifecycle import Completions
from services.inference.responses.model import ResponseStore, enabled
from services.inference.translate import usage_record, usage_summary
from services.inference.webhooks.rpc import to_proto
from services.inference.webhooks.service import Webhooks
from services.quota import holds
from services.quota import refusals as quota_refusals
from services.quota.days import day_number, iso_date
from services.quota.holds import (
    Counter,
    DayStatus,
    Denied,
    Held,
    Holds,
    KeyRef,
    LimitStatus,
    Reservation,
    Settlement,
)
from services.quota.overdue_holds import OverdueHold
from services.quota.redis.state import RedisState
from services.quota.refusals import RefusalStore

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_RESOLVE_ITEMS_MAX = 500


class LocalAuthClient:
    """The gateway's `AuthClient`."""

    def __init__(self, key_verifier: KeyVerifier, feed: ChangeFeed, *, timeout_seconds: float) -> None:
        """Authenticate by `key_verifier` within `timeout_seconds`, and watch `feed`."""
        self._key_verifier = key_verifier
        self._feed = feed
        self._timeout_seconds = timeout_seconds

    async def authenticate(self, api_key: str) -> Authentication:
        """Authenticate a key; see `AuthClient.authenticate`."""
        async with _deadline(self._timeout_seconds, "auth_unavailable"):
            verification = await self._key_verifier.authenticate(api_key)
        if isinstance(verification.outcome, Denial):
            key = verification.denied_key
            denied = None if key is None else CountedKey(key.id, key.quota_account_id or key.account_id)
            return Authentication(None, verification.outcome.value, verification.revision, denied)
        return Authentication(_principal(verification.outcome), "", verification.revision)

    async def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        """Yield changes of keys and heartbeats; see `AuthClient.watch`."""
        with _local_errors("auth_unavailable"):
            async with aclosing(self._feed.watch(after_revision)) as events:
                async for event in events:
                    yield _watch_event(event)


class LocalQuotaBatches:
    """The gateway's `QuotaBatches`."""

    def __init__(self, day_holds: Holds, *, timeout_seconds: float) -> None:
        """Call `day_holds`. One call takes at most `timeout_seconds`."""
        self._holds = day_holds
        self._timeout_seconds = timeout_seconds

    async def reserve(self, items: Sequence[ReserveItem]) -> Sequence[Hold | LimitReached | Unavailable]:
        """Return the outcome of each item, in order."""
        async with _deadline(self._timeout_seconds, "quota_unavailable"):
            outcomes = await self._holds.reserve([_reservation(item) for item in items])
        return [_outcome(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]

    async def settle(self, items: Sequence[SettleItem]) -> Sequence[Unavailable | None]:
        """Close each hold; `Unavailable` in place of None when one could not be closed."""
        async with _deadline(self._timeout_seconds, "quota_unavailable"):
            closed = await self._holds.settle([_settlement(item) for item in items])
        return [not_settled() if flag is None else None for flag in closed]


class LocalRefusalRecord:
    """The gateway's `RefusalRecord`."""

    def __init__(self, store: RefusalStore, *, timeout_seconds: float) -> None:
        """Record in `store` within `timeout_seconds`."""
        self._store = store
        self._timeout_seconds = timeout_seconds

    async def record(self, refusals: Sequence[RefusedRequests]) -> None:
        """Add numbers; see `RefusalRecord.record`."""
        async with _deadline(self._timeout_seconds, "quota_unavailable"):
            await self._store.record([_refused_requests(one) for one in refusals])


class LocalCounters:
    """The gateway's `Counters`."""

    def __init__(self, day_holds: Holds, *, timeout_seconds: float) -> None:
        """Read `day_holds` within `timeout_seconds`."""
        self._holds = day_holds
        self._timeout_seconds = timeout_seconds

    async def status(self, principal: Principal) -> RateLimit:
        """Return the key's day; see `Counters.status`."""
        async with _deadline(self._timeout_seconds, "quota_unavailable"):
            (status,) = await self._holds.status([KeyRef(principal.quota_account_id, principal.key_id)])
        return _rate_limit(principal, status)

    async def limits(self, principal: Principal) -> list[RateLimit]:
        """Return all limits of a key and its account; see `Counters.limits`."""
        async with _deadline(self._timeout_seconds, "quota_unavailable"):
            statuses = await self._holds.limits(_reservation(ReserveItem("none", principal)))
        return without_unlimited(principal, [_limit_status(status) for status in statuses])


class LocalInference:
    """The gateway's `Inference`. A request's duration is limited by inference's own time-outs."""

    def __init__(
        self, completions: Completions, catalogue: Catalogue, store: LedgerStore, *, default_model: str
    ) -> None:
        """Create an adapter.

        Args:
            completions: Answers chat requests.
            catalogue: Lists models.
            store: The ledger.
            default_model: Model of requests that name none.
        """
        self._completions = completions
        self._catalogue = catalogue
        self._store = store
        self._default_model = default_model
        self._abandoned = Batcher(
            self._resolve_abandoned, name="resolve", max_items=_RESOLVE_ITEMS_MAX, max_concurrent_batches=1
        )

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        """Return the whole answer; see `Inference.complete`."""
        with _local_errors("inference_unavailable"):
            answer = await self._completions.create(self._call(chat), _request_context(hold, chat))
            return Completion(answer.text, answer.verdict)

    async def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[list[bytes] | RowVerdict | None, None]:
        """Yield events and the verdict; see `Inference.stream`."""
        with _local_errors("inference_unavailable"):
            async with aclosing(self._completions.stream(self._call(chat), _request_context(hold, chat))) as parts:
                async for part in parts:
                    yield part

    async def resolve_abandoned(self, hold: Hold, departure: Departure | None) -> RowVerdict | None:
        """Return the verdict of an abandoned request's row; see `Inference.resolve_abandoned`."""
        outcome = None if departure is None else Outcome(departure.value)
        return await self._abandoned.submit((hold.request_id, outcome))

    async def list_models(self, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return models as JSON objects; see `Models.list_models`."""
        return self._catalogue.list_models(permitted=tuple(permitted))

    def _call(self, chat: Chat) -> ChatCall:
        return ChatCall.from_members(dict(chat.members), default_model=self._default_model, size_bytes=chat.body_bytes)

    async def _resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> Sequence[RowVerdict | None]:
        with _local_errors("inference_unavailable"):
            return await self._store.resolve_abandoned(requests)


class LocalReceipts:
    """The gateway's `Ledger`."""

    def __init__(self, store: LedgerStore, *, timeout_seconds: float) -> None:
        """Read `store` within `timeout_seconds`."""
        self._store = store
        self._timeout_seconds = timeout_seconds

    async def find(self, request_id: str) -> OwnedReceipt | None:
        """Return one request's receipt; see `Ledger.find`."""
        async with _deadline(self._timeout_seconds, "inference_unavailable"):
            row = await self._store.find(request_id)
        return None if row is None else OwnedReceipt(row.account_id, receipt_of(usage_record(row)))

    async def summarize(self, account_id: str, *, key_id: str, from_day: str, to_day: str) -> Sequence[DayUsage]:
        """Return sums by day and model; see `Ledger.summarize`."""
        async with _deadline(self._timeout_seconds, "inference_unavailable"):
            found = await self._store.summarize(key_id, account_id=account_id, from_day=from_day, to_day=to_day)
        return [day_usage(usage_summary(one)) for one in found]

    async def page(self, account_id: str, *, key_id: str, from_day: str, to_day: str, before: str) -> ReceiptsPage:
        """Return a page of an account's receipts; see `Ledger.page`."""
        page = RequestsPage(
            account_id=account_id, key_id=key_id, from_day=from_day, to_day=to_day, before=before, rows_max=PAGE_ROWS
        )
        async with _deadline(self._timeout_seconds, "inference_unavailable"):
            rows, next_before = await self._store.scan_requests(page, scan_max=SCAN_ROWS)
        return ReceiptsPage([receipt_of(usage_record(row)) for row in rows], next_before)


class LocalReceiptSigner:
    """The gateway's `ReceiptSigner`."""

    def __init__(self, signer: ReceiptSigner, *, timeout_seconds: float) -> None:
        """Call `signer` within `timeout_seconds`."""
        self._signer = signer
        self._timeout_seconds = timeout_seconds

    async def sign(self, request_id: str, *, account_id: str) -> str:
        """Return the receipt of an account's request; see `ReceiptSigner.sign`."""
        async with _deadline(self._timeout_seconds, "inference_unavailable"):
            return await self._signer.sign(request_id, account_id=account_id)

    async def key_set(self) -> bytes:
        """Return the public keys; see `ReceiptSigner.key_set`."""
        return self._signer.key_set


class LocalUsageWebhooks:
    """The gateway's `UsageWebhooks`."""

    def __init__(self, webhooks: Webhooks, *, timeout_seconds: float) -> None:
        """Call `webhooks` within `timeout_seconds`."""
        self._webhooks = webhooks
        self._timeout_seconds = timeout_seconds

    async def set(self, account_id: str, url: str) -> tuple[UsageWebhook, str]:
        """Create or change the webhook of an account; see `UsageWebhooks.set`."""
        async with self._deadline():
            webhook, secret = await self._webhooks.set(account_id, url)
        return usage_webhook_of(to_proto(webhook)), secret

    async def get(self, account_id: str) -> UsageWebhook:
        """Return the webhook of an account; see `UsageWebhooks.get`."""
        async with self._deadline():
            return usage_webhook_of(to_proto(await self._webhooks.get(account_id)))

    async def delete(self, account_id: str) -> bool:
        """Delete the webhook of an account; see `UsageWebhooks.delete`."""
        async with self._deadline():
            return await self._webhooks.delete(account_id)

    def _deadline(self) -> AbstractAsyncContextManager[None]:
        return _deadline(self._timeout_seconds, "inference_unavailable")


class LocalResponseStore:
    """The gateway's `ResponseStore`."""

    def __init__(self, store: ResponseStore | None, *, timeout_seconds: float) -> None:
        """Use `store` within `timeout_seconds`; None means that responses are not stored."""
        self._store = store
        self._timeout_seconds = timeout_seconds

    async def is_enabled(self) -> bool:
        """Return whether responses are stored; see `ResponseStore.is_enabled`."""
        if self._store is None:
            return False
        async with self._deadline():
            await self._store.check()
        return True

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        """Store a response; see `ResponseStore.store`."""
        async with self._deadline():
            await self._enabled().store(account_id, response_id, content)

    async def get(self, account_id: str, response_id: str) -> bytes:
        """Return the content of a response; see `ResponseStore.get`."""
        async with self._deadline():
            return await self._enabled().get(account_id, response_id)

    async def delete(self, account_id: str, response_id: str) -> None:
        """Delete a response; see `ResponseStore.delete`."""
        async with self._deadline():
            await self._enabled().delete(account_id, response_id)

    async def delete_account(self, account_id: str) -> None:
        """Delete all responses of an account; see `ResponseStore.delete_account`."""
        async with self._deadline():
            await self._enabled().delete_account(account_id)

    def _deadline(self) -> AbstractAsyncContextManager[None]:
        return _deadline(self._timeout_seconds, "inference_unavailable")

    def _enabled(self) -> ResponseStore:
        return enabled(self._store)


class LocalIdempotencyStore:
    """The gateway's `IdempotencyStore`."""

    def __init__(self, keys: IdempotencyKeys | None, *, timeout_seconds: float) -> None:
        """Use `keys` within `timeout_seconds`; None means that idempotency keys are ignored."""
        self._keys = keys
        self._timeout_seconds = timeout_seconds

    async def claim(self, key: IdempotencyKey, fingerprint: bytes, request_id: str, *, replaces: bool = False) -> Claim:
        """Claim a key; see `IdempotencyStore.claim`."""
        if self._keys is None:
            return Claim(ClaimState.DISABLED)
        claimant = Claimant(request_id, key.key_id, fingerprint, replaces=replaces)
        async with self._deadline():
            claim = await self._keys.claim(_claimed_key(key), claimant)
        return Claim(ClaimState(claim.state.value), claim.request_id, claim.content)

    async def rename(self, key: IdempotencyKey, request_id: str, new_request_id: str) -> None:
        """Change the id of a request; see `IdempotencyStore.rename`."""
        async with self._deadline():
            await idempotency_enabled(self._keys).rename(_claimed_key(key), request_id, new_request_id)

    async def complete(self, key: IdempotencyKey, request_id: str, content: bytes) -> None:
        """End a request; see `IdempotencyStore.complete`."""
        async with self._deadline():
            await idempotency_enabled(self._keys).complete(_claimed_key(key), request_id, content)

    async def release(self, key: IdempotencyKey, request_id: str) -> None:
        """Free a key; see `IdempotencyStore.release`."""
        async with self._deadline():
            await idempotency_enabled(self._keys).release(_claimed_key(key), request_id)

    def _deadline(self) -> AbstractAsyncContextManager[None]:
        return _deadline(self._timeout_seconds, "inference_unavailable")


class LocalLedger:
    """Quota's `Ledger` and `SweepLedger`."""

    def __init__(self, store: LedgerStore, *, timeout_seconds: float) -> None:
        """Read `store` within `timeout_seconds`."""
        self._store = store
        self._timeout_seconds = timeout_seconds

    async def count_charged(self, counters: Sequence[Counter], *, reserved_before: float | None = None) -> list[int]:
        """Return charged rows; see `SweepLedger.count_charged`."""
        return await self._count(counters, (), reserved_before)

    async def count_charged_without(
        self, counter: Counter, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return charged rows without those of some requests; see `SweepLedger.count_charged_without`."""
        (count,) = await self._count([counter], request_ids, reserved_before)
        return count

    async def _count(
        self, counters: Sequence[Counter], excluded: Sequence[str], reserved_before: float | None
    ) -> list[int]:
        sums = [
            ChargedSum(one.key_id, one.account_id, one.unit, iso_date(one.day), iso_date(one.last_day))
            for one in counters
        ]
        async with _deadline(self._timeout_seconds, "ledger_unavailable"):
            return await self._store.sum_charged(sums, reserved_before=reserved_before, excluded=excluded)

    async def close_unknown(self, overdue: Sequence[OverdueHold]) -> list[RowVerdict]:
        """Return each request's verdict; see `SweepLedger.close_unknown`."""
        contexts = [
            CallContext(one.request_id, one.account_id, one.key_id, iso_date(one.day), one.reserved_at)
            for one in overdue
        ]
        async with _deadline(self._timeout_seconds, "ledger_unavailable"):
            return await self._store.close_unknown(contexts)


class LocalDependencies:
    """The dependencies of inference and quota."""

    def __init__(self, key_check: KeyCheck, redis: RedisState) -> None:
        """Report Groq's state by `key_check`, and Redis' by `redis`."""
        self._key_check = key_check
        self._redis = redis

    async def __call__(self) -> Sequence[Dependency]:
        """Return their states."""
        groq = self._key_check.state
        return [
            Dependency("groq", "unknown" if groq is KeyState.UNCHECKED else groq.value, self._key_check.message),
            Dependency("redis", self._redis.state.value, self._redis.message),
        ]


@asynccontextmanager
async def _deadline(seconds: float, unavailable_reason: str) -> AsyncIterator[None]:
    """Limit the block to `seconds`; errors are those of `_local_errors`."""
    with _local_errors(unavailable_reason):
        async with stall_tolerant_timeout(seconds):
            yield


@contextmanager
def _local_errors(unavailable_reason: str) -> Iterator[None]:
    """Turn a missed deadline into `Unavailable`, and an unexpected exception into a logged `InternalError`."""
    try:
        yield
    except ServiceError:
        raise
    except TimeoutError as exc:
        message = "A required service cannot be reached. Try again."
        raise Unavailable(message, reason=unavailable_reason) from exc
    except Exception as exc:
        _log.exception("A local call failed.")
        raise InternalError("Internal error.") from exc


def _principal(key: Key) -> Principal:
    expires_at = None if key.expires_at is None else key.expires_at.timestamp()
    return Principal(
        key.id,
        key.account_id,
        key.daily_limit,
        expires_at,
        models=key.models,
        account_limit=key.account_daily_limit,
        limits=key.limits,
        weight=key.weight,
        quota_account_id=key.quota_account_id or "",
        key_name=key.name,
        plan=key.plan,
        deduplicate_retries=key.deduplicate_retries,
    )


def _claimed_key(key: IdempotencyKey) -> ClaimedKey:
    return ClaimedKey(key.account_id, key.digest, is_implicit=key.is_implicit)


def _watch_event(event: ChangeEvent) -> WatchEvent:
    if event.change is None:
        return WatchEvent(event.revision)
    return WatchEvent(
        event.revision,
        event.change.key_id or "",
        is_revoked=event.change.is_revoked,
        all_keys_changed=event.change.key_id is None,
    )


def _reservation(item: ReserveItem) -> Reservation:
    principal = item.principal
    return Reservation(
        item.request_id,
        principal.key_id,
        principal.quota_account_id,
        principal.daily_limit,
        principal.account_limit,
        limits=principal.limits,
        estimate=item.estimate,
    )


def _outcome(item: ReserveItem, outcome: Held | Denied | holds.CounterUnavailable) -> Hold | LimitReached | Unavailable:
    if isinstance(outcome, holds.CounterUnavailable):
        return counter_unavailable()
    rate_limit = _limit_status(outcome.tightest)
    if isinstance(outcome, Denied):
        return LimitReached(rate_limit, item.requested(rate_limit.unit))
    day, tokens = iso_date(outcome.status.day), None if outcome.tokens is None else _limit_status(outcome.tokens)
    held = None if item.estimate is None else item.estimate.held(outcome.output_tokens)
    return Hold(
        item.request_id,
        item.principal,
        day,
        outcome.reserved_at,
        rate_limit,
        outcome.output_tokens,
        held=held,
        tokens=tokens,
    )


def _refused_requests(one: RefusedRequests) -> quota_refusals.RefusedRequests:
    key = KeyRef(one.key.quota_account_id, one.key.key_id)
    return quota_refusals.RefusedRequests(key, one.status, one.code, one.count, int(one.age_seconds))


def _limit_status(status: LimitStatus) -> RateLimit:
    limit, counts = status.limit, status.counts
    return RateLimit(limit.limit, counts.charged, counts.held, counts.reset_at, limit.scope, limit.unit, limit.window)


def _rate_limit(principal: Principal, status: DayStatus) -> RateLimit:
    return RateLimit(principal.daily_limit, status.charged, status.held, status.reset_at)


def _settlement(item: SettleItem) -> Settlement:
    hold, verdict = item.hold, item.verdict
    amounts = None if hold.held is None else verdict.amounts
    return Settlement(hold.request_id, hold.principal.quota_account_id, day_number(hold.day), verdict.verdict, amounts)


def _request_context(hold: Hold, chat: Chat) -> CallContext:
    principal = hold.principal
    return CallContext(
        hold.request_id,
        principal.account_id,
        principal.key_id,
        hold.day,
        hold.reserved_at,
        models=principal.models,
        surface=chat.surface,
        held=hold.held,
        quota_account_id=principal.quota_account_id,
        weight=principal.weight,
        slot=hold.slot,
    )
