"""Decides what a request with an idempotency key gets: its turn to run, or what became of the first request.

A record says that a request has claimed the key. Where it does not say how that request ended, because a gateway was
killed or could not reach the storage, the ledger decides: a request that is not charged is replaced, and one that is
charged is never run again.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from services.common.errors import FailedPrecondition, NotFound
from services.common.verdict import Verdict
from services.inference.chat import CallContext
from services.inference.idempotency.model import (
    Claim,
    Claimant,
    ClaimedKey,
    IdempotencyKeys,
    Progress,
    Record,
    RecordStore,
    State,
    Verdicts,
    enabled,
)

if TYPE_CHECKING:
    from services.inference.responses.store import RedisResponseStore

_STATES = {Progress.NEW: State.CLAIMED, Progress.MISMATCHED: State.MISMATCHED, Progress.RUNNING: State.RUNNING}


class StoredIdempotencyKeys:
    """Idempotency keys whose records and answers are stored."""

    def __init__(self, records: RecordStore, answers: "RedisResponseStore", ledger: Verdicts) -> None:
        """Create the keys.

        Args:
            records: What is remembered of each key.
            answers: The answers, by request id.
            ledger: Decides where a record does not.
        """
        self._records = records
        self._answers = answers
        self._ledger = ledger

    async def claim(self, key: ClaimedKey, claimant: Claimant) -> Claim:
        """Claim a key for a request, or return what became of the request that has claimed it.

        Raises:
            Throttled: The account has too many keys.
            Unavailable: The storage or the ledger cannot be used.
        """
        if not await self._answers.keeps_records():
            return Claim(State.DISABLED)
        record = await self._records.claim(key, claimant)
        if record.progress in (Progress.RUNNING, Progress.LAPSED, Progress.ENDED):
            verdict = await self._verdict(key, record)
            if verdict is Verdict.RELEASED:
                # Of several repeats at once, one replaces the record.
                record = await self._records.claim(key, claimant, replaced=record.request_id)
            elif verdict is Verdict.CHARGED and record.progress is not Progress.RUNNING:
                return await self._completed(key, record)
        if record.progress is Progress.DONE:
            return await self._completed(key, record)
        return Claim(_STATES.get(record.progress, State.RUNNING), record.request_id)

    async def rename(self, key: ClaimedKey, request_id: str, new_request_id: str) -> None:
        """Change the id of the request that has claimed a key.

        Raises:
            FailedPrecondition: It has not claimed the key, or no longer.
            Unavailable: Redis cannot be reached.
        """
        if not await self._records.rename(key, request_id, new_request_id):
            raise FailedPrecondition("The request has not claimed this idempotency key.")

    async def complete(self, key: ClaimedKey, request_id: str, content: bytes) -> None:
        """End a request, and keep its answer unless `content` is empty.

        Raises:
            Unavailable: Redis cannot be reached.
            NotFound: The account was deleted.
        """
        if content:
            await self._answers.store(key.account_id, request_id, content)
        await self._records.set_progress(key, request_id, Progress.DONE if content else Progress.ENDED)

    async def release(self, key: ClaimedKey, request_id: str) -> None:
        """Free the key of a request that is not charged.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        await self._records.release(key, request_id)

    async def _completed(self, key: ClaimedKey, record: Record) -> Claim:
        try:
            content = await self._answers.get(key.account_id, record.request_id)
        except NotFound:
            return Claim(State.GONE, record.request_id)
        return Claim(State.COMPLETED, record.request_id, content)

    async def _verdict(self, key: ClaimedKey, record: Record) -> Verdict | None:
        """Return the verdict of a request; None while it may still be running.

        After its lease, a request without a ledger row gets one, as from quota's sweeper: it is not charged.
        """
        (found,) = await self._ledger.resolve_abandoned([(record.request_id, None)])
        if found is not None or record.progress is not Progress.LAPSED:
            return None if found is None else found.verdict
        day = datetime.fromtimestamp(record.claimed_at, UTC).date().isoformat()
        context = CallContext(record.request_id, key.account_id, record.key_id, day, record.claimed_at)
        (closed,) = await self._ledger.close_unknown([context])
        return closed.verdict


class KeysByKind:
    """Explicit and implicit idempotency keys, which are stored apart."""

    def __init__(self, explicit: IdempotencyKeys | None, implicit: IdempotencyKeys | None) -> None:
        """Create the keys; None disables those of one kind."""
        self._explicit = explicit
        self._implicit = implicit

    async def claim(self, key: ClaimedKey, claimant: Claimant) -> Claim:
        """Claim a key; see `IdempotencyKeys.claim`."""
        keys = self._of(key)
        return Claim(State.DISABLED) if keys is None else await keys.claim(key, claimant)

    async def rename(self, key: ClaimedKey, request_id: str, new_request_id: str) -> None:
        """Change the id of a request; see `IdempotencyKeys.rename`."""
        await enabled(self._of(key)).rename(key, request_id, new_request_id)

    async def complete(self, key: ClaimedKey, request_id: str, content: bytes) -> None:
        """End a request; see `IdempotencyKeys.complete`."""
        await enabled(self._of(key)).complete(key, request_id, content)

    async def release(self, key: ClaimedKey, request_id: str) -> None:
        """Free a key; see `IdempotencyKeys.release`."""
        await enabled(self._of(key)).release(key, request_id)

    def _of(self, key: ClaimedKey) -> IdempotencyKeys | None:
        return self._implicit if key.is_implicit else self._explicit
