"""Server-Sent Events of the usage page: requests as they end."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.common.concurrency.fair_semaphore import Slot
from services.common.errors import ServiceError
from services.common.receipts import Receipt
from services.common.runtime.clock import Clock
from services.gateway.console.page import Pages
from services.gateway.console.ports import SessionClient
from services.gateway.console.request_context import RequestContext
from services.gateway.console.usage.live import LiveRequests
from services.gateway.console.usage.query import UsageQuery, usage_query
from services.gateway.requests.sse import HEADERS, HEARTBEAT

_CHECK_SECONDS = 5.0
"""Time between checks of the session."""
_OPENED = b"retry: 3000\n\n"
"""The browser connects again after so many milliseconds."""
_SESSION_ENDED = b"event: session-ended\ndata: {}\n\n"
_UNAVAILABLE, _AVAILABLE = (b"event: %s\ndata: {}\n\n" % name for name in (b"unavailable", b"available"))
"""The ledger does not answer, and it does again."""


class LiveView:
    """Handler of the live list."""

    def __init__(self, pages: Pages, session_client: SessionClient, live: LiveRequests, clock: Clock) -> None:
        """Render rows with `pages`, and check sessions with `session_client`."""
        self._pages = pages
        self._session_client = session_client
        self._live = live
        self._clock = clock

    async def stream(self, context: RequestContext) -> Response:
        """`GET /usage/live`: the rows of requests that match the page's filters, as they end.

        Raises:
            Throttled: Too many pages with live updates are open.
        """
        if context.request.method == "HEAD":  # A stream without a body would occupy the connection for ever.
            return Response(media_type="text/event-stream")
        query = usage_query(context.request.query_params, now=self._pages.now())
        names = {key.id: key.name for key in (await context.scope.owner.keys()).keys}
        slot = await self._live.acquire(context.scope.session.account_id)
        return _EventStream(slot, self._events(context, query, names))

    async def _events(
        self, context: RequestContext, query: UsageQuery, names: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        yield _OPENED
        scope, checked_at, is_available = context.scope, self._clock.monotonic(), True
        async with aclosing(self._live.listen(scope.session.account_id, scope.usage)) as polls:
            async for requests in polls:
                if self._clock.monotonic() - checked_at >= _CHECK_SECONDS:
                    checked_at = self._clock.monotonic()
                    if await self._has_ended(context.token):
                        yield _SESSION_ENDED
                        return
                was_available, is_available = is_available, requests is not None
                if is_available != was_available:
                    yield _AVAILABLE if is_available else _UNAVAILABLE
                yield self._rows([one for one in requests or () if _matches(one, query)], names) or HEARTBEAT

    def _rows(self, requests: Sequence[Receipt], names: Mapping[str, str]) -> bytes:
        rows = [{"id": one.id, "html": self._pages.part("usage/row", one=one, names=names)} for one in requests]
        return b"data: " + msgspec.json.encode(rows) + b"\n\n" if rows else b""

    async def _has_ended(self, token: str) -> bool:
        """Return whether the session has ended. While auth does not answer, it has not."""
        try:
            return await self._session_client.session(token, is_check=True) is None
        except ServiceError:
            return False


class _EventStream(StreamingResponse):
    """A response that releases its listener's slot at its end."""

    def __init__(self, slot: Slot, content: AsyncIterator[bytes]) -> None:
        super().__init__(content)
        self.raw_headers = list(HEADERS)
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._slot.release()


def _matches(request: Receipt, query: UsageQuery) -> bool:
    one = query.filters
    wanted = ((one.key_id, request.key_id), (one.model, request.model), (one.outcome, request.outcome))
    if any(value and value != actual for value, actual in wanted):
        return False
    # Days are compared as text, and a range of hours or minutes by the time.
    is_in_range = request.day >= one.from_day if one.from_day else _is_from(request, query.range.start)
    return is_in_range and (one.surface is None or one.surface is request.surface)


def _is_from(request: Receipt, start: int) -> bool:
    return datetime.fromisoformat(request.created_at).timestamp() >= start
