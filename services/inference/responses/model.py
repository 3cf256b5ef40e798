"""The port to the storage of responses."""

from typing import Protocol

from services.common.errors import FailedPrecondition


class ResponseStore(Protocol):
    """Stores responses for their account. All calls raise `Unavailable` while the storage cannot be used."""

    async def check(self) -> None:
        """Check that responses can be stored."""

    async def store(self, account_id: str, response_id: str, content: bytes) -> None:
        """Store a response, or replace it. The account's oldest responses are dropped if there are too many.

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


def enabled(store: ResponseStore | None) -> ResponseStore:
    """Return the store of an operator who has switched it on.

    Raises:
        FailedPrecondition: Responses are not stored.
    """
    if store is None:
        raise FailedPrecondition("Responses are not stored. Set INFERENCE_RESPONSES_REDIS_URL to store them.")
    return store
