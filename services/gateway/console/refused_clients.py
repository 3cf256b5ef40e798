"""Clients that auth refused for too many tries, so that their next ones are refused here and cost auth nothing."""

from collections import OrderedDict

from services.common.errors import Throttled
from services.common.runtime.clock import Clock

_CLIENTS_MAX = 10_000


class RefusedClients:
    """Remembers until when a client's tries of one kind are refused; what auth says of an account is not remembered."""

    def __init__(self, clock: Clock) -> None:
        """Start empty."""
        self._clock = clock
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, kind: str, client: str) -> None:
        """Return while tries of this kind may be passed on.

        Raises:
            Throttled: Auth has refused this client, and its window is not over.
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
            metadata={"retry_after_seconds": str(whole)},
        )

    def note(self, kind: str, client: str, error: Throttled) -> None:
        """Remember a refusal of auth, where it is of this client whatever account it tries."""
        seconds = error.metadata.get("retry_after_seconds", "")
        if error.metadata.get("scope") != "client" or not client or not seconds.isdecimal():
            return
        self._until[kind, client] = self._clock.monotonic() + int(seconds)
        self._until.move_to_end((kind, client))
        if len(self._until) > _CLIENTS_MAX:
            self._until.popitem(last=False)
