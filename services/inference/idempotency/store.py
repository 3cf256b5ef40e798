"""Records of idempotency keys in the Redis of stored responses. Their names and contents are keyed digests."""

import math
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from services.common.errors import ErrorDetails, Throttled
from services.inference.idempotency.model import Claimant, ClaimedKey, Progress, Record
from services.inference.responses.encryption import Cipher
from services.inference.responses.store import calling

IDEMPOTENCY_PREFIX = "idempotency"
"""Beginning of the names of Redis' keys for explicit idempotency keys."""
IMPLICIT_PREFIX = "retries"
"""Beginning of the names of Redis' keys for implicit idempotency keys."""
_ANY = "*"
"""In place of a request id: the record of any request."""


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """What is remembered of one account."""

    seconds: int
    """Lifetime of a record, and of its answer."""
    records: int
    """Maximum records. Further claims are refused."""
    lease_seconds: float
    """Longer than a request may take, from its claim to the end of its answer."""


class RedisRecordStore:
    """Stores records in Redis 7 or Valkey."""

    def __init__(
        self, client: "Redis", cipher: Cipher, limits: RecordLimits, *, prefix: str = IDEMPOTENCY_PREFIX
    ) -> None:
        """Create a store.

        Args:
            client: Client of the Redis of stored responses.
            cipher: Makes keyed digests.
            limits: What is remembered of one account.
            prefix: Beginning of the names of the store's keys.
        """
        self._client = client
        self._cipher = cipher
        self._limits = limits
        self._prefix = prefix
        self._claim, self._change = (
            client.register_script((Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8"))
            for name in ("claim", "change")
        )

    async def claim(self, key: ClaimedKey, claimant: Claimant, *, replaced: str = "") -> Record:
        """Create a record, unless there is one, and return it; see `RecordStore.claim`."""
        limits, account_id = self._limits, key.account_id
        fields = self._digests(key, b"idempotency key " + key.digest)
        fingerprints = self._digests(key, b"fingerprint " + claimant.fingerprint)
        pairs = [one for pair in zip(fields, fingerprints, strict=True) for one in pair]
        lease = round(limits.lease_seconds * 1000)
        with calling("claim"):
            first, *rest = await self._claim(
                keys=[*self._names(account_id), f"{self._prefix}:accounts"],
                args=[
                    *(account_id, limits.seconds * 1000, lease, limits.records),
                    *(claimant.request_id, claimant.key_id, _ANY if claimant.replaces else replaced),
                    *(self._prefix, *pairs),
                ],
            )
        if first == b"full":
            raise _too_many(limits.records, milliseconds=int(rest[0]))
        request_id, key_id, claimed = (one.decode() for one in rest)
        return Record(Progress(first.decode()), request_id, key_id, int(claimed) / 1000)

    async def set_progress(self, key: ClaimedKey, request_id: str, progress: Progress) -> bool:
        """Change a request's record; see `RecordStore.set_progress`."""
        return await self._changed(key, request_id, progress.value, request_id)

    async def rename(self, key: ClaimedKey, request_id: str, new_request_id: str) -> bool:
        """Change the request id of a running request's record; see `RecordStore.rename`."""
        return await self._changed(key, request_id, Progress.RUNNING.value, new_request_id)

    async def release(self, key: ClaimedKey, request_id: str) -> None:
        """Delete a request's record, if there is one."""
        await self._changed(key, request_id, "", "")

    async def delete_account(self, account_id: str) -> None:
        """Delete all records of an account.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        with calling("delete_account"):
            await self._client.unlink(*self._names(account_id))

    async def _changed(self, key: ClaimedKey, request_id: str, progress: str, new_request_id: str) -> bool:
        fields = self._digests(key, b"idempotency key " + key.digest)
        with calling("finish"):
            changed = await self._change(
                keys=self._names(key.account_id), args=[request_id, progress, new_request_id, *fields]
            )
        return bool(changed)

    def _digests(self, key: ClaimedKey, content: bytes) -> list[str]:
        return self._cipher.digests(content, account_id=key.account_id)

    def _names(self, account_id: str) -> list[str]:
        return [f"{self._prefix}:{{{account_id}}}:{name}" for name in ("records", "expiries")]


def _too_many(count: int, *, milliseconds: int) -> Throttled:
    return Throttled(
        f"Your account has {count:,} idempotency keys, which is the maximum. They expire one by one. Try again later, "
        "or send the request without Idempotency-Key.",
        reason="too_many_idempotency_keys",
        details=ErrorDetails(retry_after_seconds=max(1, math.ceil(milliseconds / 1000))),
    )
