"""Types, errors and the port of idempotency keys."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.common.errors import ErrorDetails, FailedPrecondition, InvalidRequest

HEADER = b"idempotency-key"
"""The request header, as in draft-ietf-httpapi-idempotency-key-header."""

_RETRY_SECONDS = 2


class ClaimState(StrEnum):
    """What a claim found."""

    CLAIMED = "claimed"
    """The key is claimed for the request, which must run."""
    DISABLED = "disabled"
    """The operator does not support keys: the request runs as if it had none."""
    RUNNING = "running"
    """The request that claimed the key is still running."""
    MISMATCHED = "mismatched"
    """The key was claimed by a request with another path or body."""
    COMPLETED = "completed"
    """The request is complete, and its answer is kept."""
    GONE = "gone"
    """The request was charged, but its answer is not available."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An idempotency key of an API key."""

    account_id: str
    key_id: str
    digest: bytes
    """SHA-256 of the id of the API key and the value of the header; of an implicit key, of the id, path and body."""
    is_implicit: bool = False
    """Whether it is the key of a request without the header, whose API key deduplicates automatic retries."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim."""

    state: ClaimState
    request_id: str = ""
    """Id of the request that has claimed the key; empty if keys are not supported."""
    content: bytes = b""
    """The answer, if the state is `COMPLETED`."""


class IdempotencyStore(Protocol):
    """Remembers the requests that have an idempotency key.

    All calls raise `Unavailable` while the storage or the ledger cannot be used.
    """

    async def claim(self, key: IdempotencyKey, fingerprint: bytes, request_id: str, *, replaces: bool = False) -> Claim:
        """Claim a key for a request, or return what became of the request that has claimed it.

        Args:
            key: The idempotency key.
            fingerprint: SHA-256 of the path and the body of the request.
            request_id: Id of the request.
            replaces: Whether the request claims an implicit key even if an earlier one has claimed it.

        Raises:
            Throttled: The account has too many keys.
        """

    async def rename(self, key: IdempotencyKey, request_id: str, new_request_id: str) -> None:
        """Change the id of the request that has claimed a key, before it runs.

        Raises:
            FailedPrecondition: It has not claimed the key.
        """

    async def complete(self, key: IdempotencyKey, request_id: str, content: bytes) -> None:
        """End a request, and keep its answer. If `content` is empty, the ledger decides whether a repeat runs."""

    async def release(self, key: IdempotencyKey, request_id: str) -> None:
        """Free the key of a request that is not charged, so that a repeat runs."""


class IdempotencyKeyReused(InvalidRequest):
    """The key belongs to a request with another path or body: 422."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for a request with another path or body. Send a new key with each new "
            "request, and the same one only to repeat a request without changes.",
            details=ErrorDetails(code="idempotency_key_reused"),
        )


class IdempotentRequestRunning(FailedPrecondition):
    """The first request with the key is still running: 409 with `retry-after`."""

    def __init__(self, request_id: str, *, is_retry: bool = False) -> None:
        super().__init__(
            f"The request {request_id} {_relation(is_retry)} is still running. Repeat the request later to get its "
            "answer.",
            reason="idempotent_request_running",
            details=ErrorDetails(retry_after_seconds=_RETRY_SECONDS),
        )


class IdempotentAnswerGone(FailedPrecondition):
    """The first request with the key was charged, and its answer is not available: 410."""

    def __init__(self, request_id: str, *, is_retry: bool = False) -> None:
        remedy = "send it without x-stainless-retry-count" if is_retry else "send a new key"
        super().__init__(
            f"The request {request_id} {_relation(is_retry)} was answered and charged, but its answer is no longer "
            f"available. GET /v1/usage/{request_id} returns its receipt. To run the request again, {remedy}.",
            reason="idempotent_answer_gone",
        )


def _relation(is_retry: bool) -> str:
    return "that this one retries" if is_retry else "with this Idempotency-Key"
