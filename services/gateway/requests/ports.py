"""Ports to auth, quota and inference. Adapters: gRPC (services/gateway/clients) and local (services/local/adapters)."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from services.common.estimate import Estimate
from services.common.verdict import RowVerdict
from services.gateway.requests.types import Chat, Completion, Departure, Hold, JSONObject, Principal


class Authenticator(Protocol):
    """Authenticates API keys."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        """Return the key's principal.

        Args:
            api_key: The key as the client sent it.
            address: The client's address; empty when it is not known.

        Raises:
            Unauthenticated: The key is unknown, revoked or expired.
            Throttled: Too many unknown keys came from the address.
            Unavailable: Auth cannot be reached, and the key is not in the cache.
        """


class Quota(Protocol):
    """Reserves and settles requests of the daily limits of a key and its account."""

    async def reserve(self, request_id: str, principal: Principal, estimate: Estimate | None = None) -> Hold:
        """Hold what a request takes of all limits, or of none.

        Args:
            request_id: Id of the request.
            principal: The key with its limits.
            estimate: Upper bound of tokens and cost; None if neither is limited.

        Raises:
            LimitReached: A limit is used up or held by requests in flight, or is less than the request needs.
            Unavailable: Quota gave no answer, and may hold the request; or it could not read the key's counter and
                holds nothing.
        """

    async def drain(self) -> None:
        """Wait for reserves whose caller was cancelled. Their holds are released."""

    def settle(self, hold: Hold, verdict: RowVerdict) -> "asyncio.Future[None]":
        """Close a hold. Repeating it is harmless.

        Returns:
            A future that fails with `Unavailable` if quota gave no answer, or could not close the hold.
        """


class Models(Protocol):
    """Lists models."""

    async def list_models(self, permitted: Sequence[str] = ()) -> list[JSONObject]:
        """Return the models that match one of the `permitted` patterns, or all of them when there is no pattern."""


class Inference(Models, Protocol):
    """Answers chat requests. The details of an error have the verdict once the request's ledger row is written."""

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        """Return the whole answer.

        Raises:
            ServiceError: Groq refused or failed, a time-out passed, or inference cannot be reached.
        """

    def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[list[bytes] | RowVerdict | None, None]:
        """Yield lists of events that arrived together, as JSON texts, and the verdict at the end.

        Raises:
            ServiceError: As `complete`, before or after some events.
        """

    async def resolve_abandoned(self, hold: Hold, departure: Departure | None) -> RowVerdict | None:
        """Return the verdict of an abandoned request's ledger row, and record why the request was abandoned.

        Returns:
            The verdict; None while there is no row.

        Raises:
            ServiceError: The ledger cannot be read.
        """


class ResponseStore(Protocol):
    """Stores responses for their account, if the operator has switched it on.

    All calls raise `Unavailable` while the storage cannot be used.
    """

    async def is_enabled(self) -> bool:
        """Return whether responses are stored. That the operator switched it on may be noticed seconds later."""

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        """Store a response, or replace it.

        Raises:
            NotFound: The account was deleted.
        """

    async def get(self, account_id: str, response_id: str) -> bytes:
        """Return the content of a response.

        Raises:
            NotFound: The account has no such response.
        """

    async def delete(self, account_id: str, response_id: str) -> None:
        """Delete a response.

        Raises:
            NotFound: The account has no such response.
        """

    async def delete_account(self, account_id: str) -> None:
        """Delete all responses of an account. Its calls in flight store no more."""
