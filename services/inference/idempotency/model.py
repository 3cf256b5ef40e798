"""Types and ports of idempotency keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.common.errors import FailedPrecondition
from services.common.verdict import RowVerdict
from services.inference.chat import CallContext, Outcome


class State(StrEnum):
    """What a claim found."""

    CLAIMED = "claimed"
    """The key is claimed for the request, which must run."""
    DISABLED = "disabled"
    """The key is ignored."""
    RUNNING = "running"
    """The request that claimed the key is still running."""
    MISMATCHED = "mismatched"
    """The key was claimed by a request with another path or body."""
    COMPLETED = "completed"
    """The request is complete, and its answer is kept."""
    GONE = "gone"
    """The request was charged, but its answer is not available."""


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """An idempotency key of an API key."""

    account_id: str
    digest: bytes
    """SHA-256 of the id of the API key and the value of the header; of an implicit key, of the id, path and body."""
    is_implicit: bool = False
    """Whether it is the key of a request without the header, whose API key deduplicates automatic retries."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A request that claims a key."""

    request_id: str
    key_id: str
    fingerprint: bytes
    """SHA-256 of its path and body."""
    replaces: bool = False
    """Whether it replaces the record of an earlier request, whatever became of that one."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim."""

    state: State
    request_id: str = ""
    """Id of the request that has claimed the key; empty if keys are ignored."""
    content: bytes = b""
    """The answer, if the state is `COMPLETED`."""


class Progress(StrEnum):
    """The state of a record, as it is stored."""

    NEW = "new"
    """There was no record. Now there is one, of the claimant."""
    RUNNING = "running"
    """The request may be running: its lease is not over."""
    LAPSED = "lapsed"
    """The lease is over, and the request has not been completed or released: its gateway was killed."""
    ENDED = "ended"
    """The request has ended, but its answer is not kept."""
    DONE = "done"
    """The request is complete, and its answer was stored."""
    MISMATCHED = "mismatched"
    """The record is of a request with another fingerprint."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a key."""

    progress: Progress
    request_id: str
    key_id: str
    claimed_at: float
    """Unix seconds by Redis' clock."""


class RecordStore(Protocol):
    """Stores records. All calls raise `Unavailable` while the storage cannot be used."""

    async def claim(self, key: ClaimedKey, claimant: Claimant, *, replaced: str = "") -> Record:
        """Create a record, unless there is one, and return it.

        Args:
            key: The idempotency key.
            claimant: The request.
            replaced: Id of a request whose record is replaced; empty replaces none.

        Raises:
            Throttled: The account has too many records.
        """

    async def set_progress(self, key: ClaimedKey, request_id: str, progress: Progress) -> bool:
        """Change a request's record. Return whether there is one."""

    async def rename(self, key: ClaimedKey, request_id: str, new_request_id: str) -> bool:
        """Change the request id of a request's record. Return whether there is one."""

    async def release(self, key: ClaimedKey, request_id: str) -> None:
        """Delete a request's record, if there is one."""


class Verdicts(Protocol):
    """The ledger's verdicts."""

    async def resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> Sequence[RowVerdict | None]:
        """Return the verdict of each request, in order; None without a row."""

    async def close_unknown(self, contexts: Sequence[CallContext]) -> Sequence[RowVerdict]:
        """Return the verdict of each request, in order; insert an uncharged row where there is none."""


class IdempotencyKeys(Protocol):
    """Claims idempotency keys; see `services.inference.idempotency.keys`."""

    async def claim(self, key: ClaimedKey, claimant: Claimant) -> Claim:
        """Claim a key for a request, or return what became of the request that has claimed it."""

    async def rename(self, key: ClaimedKey, request_id: str, new_request_id: str) -> None:
        """Change the id of the request that has claimed a key."""

    async def complete(self, key: ClaimedKey, request_id: str, content: bytes) -> None:
        """End a request, and keep its answer unless it is empty."""

    async def release(self, key: ClaimedKey, request_id: str) -> None:
        """Free a key, so that a repeat runs."""


def enabled(keys: IdempotencyKeys | None) -> IdempotencyKeys:
    """Return the keys of an operator who has not switched them off.

    Raises:
        FailedPrecondition: Keys are ignored.
    """
    if keys is None:
        raise FailedPrecondition("Idempotency keys are ignored. Set INFERENCE_RESPONSES_REDIS_URL to support them.")
    return keys
