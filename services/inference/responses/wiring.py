"""The stores of responses and of idempotency keys from inference's settings."""

import math
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from services.common.db.database import is_sqlite
from services.common.errors import StartError
from services.common.runtime import secret_file
from services.common.runtime.clock import SystemClock
from services.inference.idempotency.store import IDEMPOTENCY_PREFIX, IMPLICIT_PREFIX, RecordLimits, RedisRecordStore
from services.inference.responses.encryption import Cipher
from services.inference.responses.store import Limits, RedisResponseStore, connect
from services.inference.settings import InferenceSettings

_SECRET_CHARACTERS_MIN = 16
_DELETED_MARGIN_SECONDS = 60.0
_LEASE_MARGIN_SECONDS = 10.0
"""Time for a gateway to reserve a slot, before the request begins, and to get its verdict after its time-out."""


@dataclass(frozen=True, slots=True)
class Stores:
    """What is stored in the Redis of responses."""

    responses: RedisResponseStore
    answers: RedisResponseStore
    """Answers of requests with an idempotency key."""
    records: RedisRecordStore
    retried_answers: RedisResponseStore
    """Answers of requests with an implicit key."""
    retried_records: RedisRecordStore


def open_stores(settings: InferenceSettings, stack: AsyncExitStack) -> Stores:
    """Return stores that `stack` closes. Redis need not be reachable yet.

    Raises:
        StartError: The secret is missing and cannot be generated, or one is too short.
    """
    client = connect(settings.responses_redis)
    stack.push_async_callback(client.aclose)
    cipher, clock = Cipher(_secrets(settings)), SystemClock()
    answers, retried_answers = (
        RedisResponseStore(client, cipher, _answer_limits(settings, seconds), clock, prefix=prefix)
        for seconds, prefix in _kinds(settings)
    )
    records, retried_records = (
        RedisRecordStore(client, cipher, _record_limits(settings, seconds), prefix=prefix)
        for seconds, prefix in _kinds(settings)
    )
    kept = (answers, records, retried_answers, retried_records)
    responses = RedisResponseStore(client, cipher, _limits(settings), clock, deleted_with=kept)
    return Stores(responses, *kept)


def _kinds(settings: InferenceSettings) -> tuple[tuple[int, str], tuple[int, str]]:
    """Return lifetime and prefix of explicit and of implicit keys.

    An SDK may retry only when its own time-out is over, so answers are kept after the longest request.
    """
    retried_seconds = settings.deduplication_seconds + math.ceil(_lease_seconds(settings))
    return (settings.idempotency_seconds, IDEMPOTENCY_PREFIX), (retried_seconds, IMPLICIT_PREFIX)


def _limits(settings: InferenceSettings) -> Limits:
    return Limits(
        seconds=settings.responses_seconds,
        responses=settings.responses_per_account_max,
        size_bytes=settings.responses_bytes_per_account_max,
        deleted_seconds=settings.request_timeout_seconds + _DELETED_MARGIN_SECONDS,
    )


def _answer_limits(settings: InferenceSettings, seconds: int) -> Limits:
    return replace(
        _limits(settings),
        seconds=seconds,
        responses=settings.idempotency_keys_per_account_max,
        size_bytes=settings.idempotency_bytes_per_account_max,
    )


def _record_limits(settings: InferenceSettings, seconds: int) -> RecordLimits:
    return RecordLimits(
        seconds=seconds,
        records=settings.idempotency_keys_per_account_max,
        lease_seconds=_lease_seconds(settings),
    )


def _lease_seconds(settings: InferenceSettings) -> float:
    return settings.request_timeout_seconds + _LEASE_MARGIN_SECONDS


def _secrets(settings: InferenceSettings) -> list[str]:
    configured = settings.responses_secrets.get_secret_value().split(",")
    secrets = [secret.strip() for secret in configured if secret.strip()]
    if not secrets and not is_sqlite(settings.ledger_url):
        raise StartError(
            "INFERENCE_RESPONSES_SECRETS is not set, and storing responses requires it with Postgres. Set it to the "
            "same value on every replica; generate a secret with `openssl rand -hex 32`."
        )
    if any(len(secret) < _SECRET_CHARACTERS_MIN for secret in secrets):
        raise StartError(
            f"INFERENCE_RESPONSES_SECRETS has a secret of less than {_SECRET_CHARACTERS_MIN} characters. Generate one "
            "with `openssl rand -hex 32`."
        )
    return secrets or [secret_file.read_or_create(settings.data_dir / "responses-secret")]
