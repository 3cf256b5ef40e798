"""A claimed idempotency key, until its request ends."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.types import Scope

from services.common.errors import ServiceError
from services.common.verdict import Verdict
from services.gateway.http.middleware import FAILURE
from services.gateway.requests.idempotency_types import IdempotencyKey, IdempotencyStore
from services.gateway.requests.recording import RecordedAnswer

_log = logging.getLogger(__name__)
_FINISH_SECONDS = 1.0
"""Maximum time that the end of a response waits for its answer to be stored. Then it is stored in the background."""


class ClaimedKey:
    """A key that is claimed for a request which runs."""

    def __init__(
        self, store: IdempotencyStore, key: IdempotencyKey, request_id: str, tasks: "set[asyncio.Task[None]]"
    ) -> None:
        """Create a claim.

        Args:
            store: Remembers the request.
            key: The key.
            request_id: Id of the request.
            tasks: Calls to the store in progress.
        """
        self._store = store
        self._key = key
        self._request_id = request_id
        self._tasks = tasks
        self._is_finished = False

    @property
    def account_id(self) -> str:
        """Id of the account whose key it is."""
        return self._key.account_id

    async def rename(self, request_id: str) -> None:
        """Store the id of a request whose reserve was repeated under a new one.

        Raises:
            ServiceError: It could not be stored, so the request must not run. The claim of an implicit key is given up
                instead.
        """
        if request_id == self._request_id:
            return
        try:
            await self._store.rename(self._key, self._request_id, request_id)
        except ServiceError:
            if not self._key.is_implicit:
                raise
            for one in (self._request_id, request_id):  # It may have been renamed.
                self._spawn(self._release(one))
        self._request_id = request_id

    async def finish(self, scope: Scope, answer: RecordedAnswer | None) -> None:
        """Keep the answer of a request that is charged, and free the key of one that is not."""
        verdict = scope.get(FAILURE, Verdict.CHARGED)
        if verdict is Verdict.RELEASED:
            await self.release()
        elif verdict is Verdict.CHARGED and answer is not None:
            await self._wait(self._keep(answer.encode()))
        else:
            await self._wait(self._end())

    async def release(self) -> None:
        """Free the key."""
        await self._wait(self._release(self._request_id))

    def release_later(self) -> None:
        """Free the key in the background."""
        self._spawn(self._release(self._request_id))

    def abandon(self) -> None:
        """Leave it to the ledger whether a repeat runs, unless the request has been finished."""
        if not self._is_finished:
            self._spawn(self._end())

    async def _release(self, request_id: str) -> None:
        with suppress(ServiceError):  # Then the ledger decides.
            await self._store.release(self._key, request_id)

    async def _keep(self, content: bytes) -> None:
        try:
            await self._store.complete(self._key, self._request_id, content)
        except ServiceError as exc:
            facts = {"request_id": self._request_id, "reason": exc.reason}
            _log.warning("The answer of a request with an idempotency key could not be stored.", extra=facts)
            await self._end()

    async def _end(self) -> None:
        with suppress(ServiceError):  # Then its lease ends later.
            await self._store.complete(self._key, self._request_id, b"")

    async def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work` for a limited time. It continues after that, and if the caller is cancelled."""
        await asyncio.wait({self._spawn(work)}, timeout=_FINISH_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self._is_finished = True
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
