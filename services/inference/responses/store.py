"""Stored responses in a Redis of their own, encrypted, with a lifetime and limits for each account.

The answers of requests with an idempotency key are stored in the same way under other names.

That Redis must evict keys when its memory is full, since nothing else bounds all accounts together. It is therefore
never quota's, which must not evict: a server without a memory limit or without eviction is refused.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.common.errors import NotFound, Unavailable
from services.common.runtime.clock import Clock
from services.inference.metrics import STORED_RESPONSE_CALLS
from services.inference.responses.encryption import Cipher, Undecryptable

_log = logging.getLogger(__name__)
_CONNECTIONS_MAX = 64
_SECONDS_MAX = 3.0
"""Time-out of connecting, and of a command."""
_MEMORY_CHECK_SECONDS = 30.0
_THREAD_BYTES_MIN = 32 * 1024
"""Size from which a text is encrypted in a thread, so that other requests do not wait."""
_NO_EVICTION = "noeviction"
_VOLATILE = "volatile-"
"""Begin of the names of policies that evict only keys with a time to live."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept of one account."""

    seconds: int
    """Lifetime of a response."""
    responses: int
    """Maximum responses. The oldest ones are dropped."""
    size_bytes: int
    """Maximum bytes of all responses, as they are stored. The oldest ones are dropped."""
    deleted_seconds: float
    """How long a deleted account stays marked: longer than a request may take."""


class AccountData(Protocol):
    """Data of accounts."""

    async def delete_account(self, account_id: str) -> None:
        """Delete the data of an account."""


def connect(url: str) -> "Redis":
    """Return a client that connects on first use. A command whose connection broke is sent again once."""
    return Redis.from_url(
        url,
        socket_timeout=_SECONDS_MAX,
        socket_connect_timeout=_SECONDS_MAX,
        max_connections=_CONNECTIONS_MAX,
        retry=Retry(NoBackoff(), 1),  # Each script may run twice.
        protocol=2,
    )


class RedisResponseStore:
    """Stores responses in Redis 7 or Valkey."""

    def __init__(
        self,
        client: "Redis",
        cipher: Cipher,
        limits: Limits,
        clock: Clock,
        *,
        prefix: str = "responses",
        deleted_with: Sequence[AccountData] = (),
    ) -> None:
        """Create a store.

        Args:
            client: Client from `connect`.
            cipher: Encrypts the responses.
            limits: What is kept of one account.
            clock: Decides when Redis' memory settings are read again.
            prefix: Beginning of the names of the store's keys.
            deleted_with: Other data of an account, which `delete_account` deletes, too.
        """
        self._client = client
        self._cipher = cipher
        self._limits = limits
        self._clock = clock
        self._prefix = prefix
        self._deleted_with = deleted_with
        self._memory_checked_at: float | None = None
        self._policy = _NO_EVICTION
        self._store, self._get, self._delete, self._delete_account = (
            client.register_script((Path(__file__).parent / f"{name}.lua").read_text(encoding="utf-8"))
            for name in ("store", "get", "delete", "delete_account")
        )

    async def check(self) -> None:
        """Check that responses can be stored.

        Raises:
            Unavailable: Redis cannot be reached, or does not evict keys.
        """
        with calling("check"):
            if self._is_memory_checked():
                await cast(Any, self._client.ping())
            else:
                await self._check_memory()

    async def keeps_records(self) -> bool:
        """Return whether Redis evicts no keys without a time to live.

        Raises:
            Unavailable: Redis cannot be reached, or does not evict keys.
        """
        if not self._is_memory_checked():
            with calling("check"):
                await self._check_memory()
            if not self._policy.startswith(_VOLATILE):
                _log.warning(
                    "Idempotency-Key is ignored, because the Redis of INFERENCE_RESPONSES_REDIS_URL may evict the "
                    "record of a key, so that a repeat would run. Set its maxmemory-policy to volatile-lru.",
                    extra={"maxmemory_policy": self._policy},
                )
        return self._policy.startswith(_VOLATILE)

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        """Store a response, or replace it. The account's oldest responses are dropped if there are too many.

        Raises:
            NotFound: The account was deleted.
            Unavailable: Redis cannot be reached.
        """
        sealed = await _in_thread(self._cipher.seal, content, account_id, response_id)
        limits = self._limits
        arguments = (limits.seconds * 1000, limits.responses, limits.size_bytes)
        with calling("store"):
            stored = await self._store(
                keys=[self._index(account_id), self._key(account_id, response_id), self._mark(account_id)],
                args=[self._key(account_id), response_id, sealed, *arguments],
            )
        if not stored:
            raise NotFound("The account was deleted.")

    async def get(self, account_id: str, response_id: str) -> bytes:
        """Return the content of a response.

        Raises:
            NotFound: The account has no such response.
            Unavailable: Redis cannot be reached.
        """
        with calling("get"):
            keys = [self._index(account_id), self._key(account_id, response_id)]
            sealed = await self._get(keys=keys, args=[response_id])
        if not sealed:
            raise _not_found(response_id)
        try:
            return await _in_thread(self._cipher.open, sealed, account_id, response_id)
        except Undecryptable:
            _log.warning(
                "A stored response cannot be decrypted. Keep previous secrets in INFERENCE_RESPONSES_SECRETS until the "
                "responses have expired.",
                extra={"response_id": response_id},
            )
            raise _not_found(response_id) from None

    async def delete(self, account_id: str, response_id: str) -> None:
        """Delete a response.

        Raises:
            NotFound: The account has no such response.
            Unavailable: Redis cannot be reached.
        """
        with calling("delete"):
            keys = [self._index(account_id), self._key(account_id, response_id)]
            deleted = await self._delete(keys=keys, args=[response_id])
        if not deleted:
            raise _not_found(response_id)

    async def delete_account(self, account_id: str) -> None:
        """Delete all responses of an account. Its calls in flight store no more.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        lifetime = round(self._limits.deleted_seconds * 1000)
        with calling("delete_account"):
            keys = [self._index(account_id), self._mark(account_id)]
            await self._delete_account(keys=keys, args=[self._key(account_id), lifetime])
        for data in self._deleted_with:
            await data.delete_account(account_id)

    def _is_memory_checked(self) -> bool:
        checked_at = self._memory_checked_at
        return checked_at is not None and self._clock.monotonic() - checked_at < _MEMORY_CHECK_SECONDS

    async def _check_memory(self) -> None:
        now = self._clock.monotonic()
        self._policy = _eviction_policy(await self._client.info("memory"))
        self._memory_checked_at = now

    def _key(self, account_id: str, response_id: str = "") -> str:
        return f"{self._prefix}:{{{account_id}}}:one:{response_id}"

    def _index(self, account_id: str) -> str:
        return f"{self._prefix}:{{{account_id}}}:index"

    def _mark(self, account_id: str) -> str:
        return f"{self._prefix}:{{{account_id}}}:deleted"


async def _in_thread(work: Callable[..., bytes], text: bytes, account_id: str, response_id: str) -> bytes:
    """Return what `work` returns. A large text is processed in a thread."""
    call = partial(work, text, account_id=account_id, response_id=response_id)
    return call() if len(text) < _THREAD_BYTES_MIN else await asyncio.to_thread(call)


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id}' not found.")


def _eviction_policy(memory: dict[str, Any]) -> str:
    """Return the policy of a server that evicts keys.

    Raises:
        Unavailable: It does not.
    """
    policy: str = memory.get("maxmemory_policy", _NO_EVICTION)
    if policy == _NO_EVICTION or not memory.get("maxmemory"):
        _log.error(
            "The Redis of INFERENCE_RESPONSES_REDIS_URL must have a memory limit and evict keys. Set its maxmemory, "
            "and its maxmemory-policy to volatile-lru. It must not be the Redis of quota.",
            extra={"maxmemory": memory.get("maxmemory"), "maxmemory_policy": policy},
        )
        raise _unavailable()
    return policy


@contextmanager
def calling(call: str) -> Iterator[None]:
    """Count a call, and turn an error of Redis into `Unavailable`."""
    try:
        yield
    except (RedisError, OSError) as exc:
        STORED_RESPONSE_CALLS.labels(call, "failed").inc()
        _log.warning("Redis failed.", extra={"call": call, "error": type(exc).__name__})
        raise _unavailable() from exc
    STORED_RESPONSE_CALLS.labels(call, "ok").inc()


def _unavailable() -> Unavailable:
    return Unavailable(
        'The storage of responses cannot be used at the moment. Try again, or send "store": false and the whole input.',
        reason="response_storage_unavailable",
    )
