"""Limits concurrent downloads per account and address, because a client may take any time to read one."""

from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.common.address_prefix import address_prefix
from services.common.concurrency.fair_semaphore import FairSemaphore, QueueFull, Slot
from services.common.errors import ErrorDetails, Throttled

_DOWNLOADS = 64
"""Each keeps a page of rows in memory, about 200 KB."""
_DOWNLOADS_PER_ACCOUNT = 2
_DOWNLOADS_PER_ADDRESS = 4
_RETRY_SECONDS = 5


class Downloads:
    """Counts downloads in progress."""

    def __init__(self) -> None:
        self._accounts = _counter(_DOWNLOADS_PER_ACCOUNT)
        self._addresses = _counter(_DOWNLOADS_PER_ADDRESS)

    async def begin(self, account_id: str, address: str) -> "DownloadLease":
        """Return the lease of a new download, which the caller must release; an unknown address is empty.

        Raises:
            Throttled: The account, the address, or all accounts together have too many downloads in progress.
        """
        slots: list[Slot] = []
        try:
            slots.append(await self._accounts.acquire(account_id))
            slots.append(await self._addresses.acquire(address_prefix(address)))
        except QueueFull as exc:
            DownloadLease(slots).release()
            raise Throttled(
                "Too many downloads are in progress. Wait until one has finished, and try again.",
                reason="too_many_downloads",
                details=ErrorDetails(retry_after_seconds=_RETRY_SECONDS),
            ) from exc
        return DownloadLease(slots)


class DownloadLease:
    """The slots of one download."""

    def __init__(self, slots: list[Slot]) -> None:
        self._slots = slots

    def release(self) -> None:
        """Release the slots; a second call does nothing."""
        for slot in self._slots:
            slot.release()


class Download(StreamingResponse):
    """A response that releases its download's slots when it was sent or its client has left."""

    def __init__(self, lease: DownloadLease, content: AsyncIterator[str], *, name: str, media_type: str) -> None:
        """Send `content` as a file called `name`."""
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        super().__init__(content, media_type=media_type, headers=headers)
        self._lease = lease

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._lease.release()


def _counter(per_client: int) -> FairSemaphore:
    return FairSemaphore(_DOWNLOADS, per_client=per_client, waiting_max=0, waiting_per_client_max=0)
