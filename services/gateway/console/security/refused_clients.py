"""A cache of clients that auth has rate limited, so that their further attempts do not reach auth."""

from collections import OrderedDict

from services.common.errors import ErrorDetails, Throttled
from services.common.runtime.clock import Clock

_CLIENTS_MAX = 10_000


class RefusedClients:
    """A cache of rate limits per client and kind of attempt. Rate limits of accounts are not cached."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, kind: str, client: str) -> None:
        """Check whether attempts of this kind are allowed.

        Raises:
            Throttled: Auth has rate limited this client, and the limit has not expired.
        """
        until = self._until.get((kind, client))
        if until is None:
            return
        seconds = until - self._clock.monotonic()
        if seconds <= 0:
            del self._until[kind, client]
            return
        whole = int(seconds) + 1
        minutes = (whole + 59) // 60
        raise Throttled(
            f"Too many attempts. Try again in {minutes} minute{'s' if minutes > 1 else ''}.",
            reason="too_many_attempts",
            details=ErrorDetails(retry_after_seconds=whole),
        )

    def note(self, kind: str, client: str, error: Throttled) -> None:
        """Cache an error from auth if it applies to the client, and not to an account."""
        if not client or not error.details.is_client_limit:
            return
        self._until[kind, client] = self._clock.monotonic() + error.details.retry_after_seconds
        self._until.move_to_end((kind, client))
        if len(self._until) > _CLIENTS_MAX:
            self._until.popitem(last=False)
