"""The order in which accounts are served, and the times that refused requests are given.

Each account has a finish time in virtual time: the tokens served to it per weight. The account with the lowest is
served first, so accounts that always have requests get tokens in proportion to their weights, however many requests or
keys they have. An account that had nothing to send starts at the current virtual time: it cannot save up its share.
This is start-time fair queueing (Goyal, Vin and Cheng, 1996). It gives the shares of deficit round robin, and needs one
number for each account that replicas can share.
"""

import math
from collections import OrderedDict

RETRY_SPACING = 1.1
"""Factor of the time between the requests that an account is asked to send again, so that its queue gets shorter."""
_ACCOUNTS_MAX = 10_000
_APPOINTMENTS_MAX = 500


class Shares:
    """Tokens served to each account per weight."""

    def __init__(self) -> None:
        self._finish: OrderedDict[str, float] = OrderedDict()
        self._virtual = 0.0
        self.waiting: dict[str, int] = {}
        """Weights of the accounts with waiting requests."""

    def start(self, account_id: str) -> float:
        """Return the account's place in the order: the lowest is served first."""
        finish = self._finish.get(account_id, 0.0)
        return finish if account_id in self.waiting else max(finish, self._virtual)

    def serve(self, account_id: str, tokens: float, weight: int) -> None:
        """Count tokens that are served to an account."""
        start = self.start(account_id)
        self._virtual = max(self._virtual, start)
        self._finish[account_id] = start + tokens / weight
        self._finish.move_to_end(account_id)
        if len(self._finish) > _ACCOUNTS_MAX:
            self._finish.popitem(last=False)

    def correct(self, account_id: str, tokens: float, weight: int) -> None:
        """Add the difference between an estimate and the use."""
        if account_id in self._finish:
            self._finish[account_id] += tokens / weight

    def enter(self, account_id: str, weight: int) -> None:
        """Record that requests of an account wait."""
        self._finish[account_id] = self.start(account_id)
        self.waiting[account_id] = weight

    def leave(self, account_id: str) -> None:
        """Record that no request of an account waits."""
        self.waiting.pop(account_id, None)

    def owed(self, account_id: str, weight: int) -> float:
        """Return how many tokens the account has been served beyond its share: others are served them first."""
        return max(0.0, self.start(account_id) - self._virtual) * weight

    def share(self, account_id: str, weight: int) -> float:
        """Return the account's part of the allowance while all that wait now are served, from 0 to 1."""
        others = sum(other for account, other in self.waiting.items() if account != account_id)
        return weight / (weight + others)


class Appointments:
    """When requests of one account that could not wait should be sent again.

    A request that comes at its time is admitted before new ones, which are given later times. Without this, new
    requests would take the places of those that wait outside, and `retry-after` would not be true.
    """

    __slots__ = ("_last", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._last = 0.0

    def expire(self, now: float, grace: float) -> bool:
        """Forget appointments that were not kept within `grace` seconds. Return whether any are left."""
        self._times = [time for time in self._times if time > now - grace]
        return bool(self._times)

    def due(self, until: float) -> int:
        """Return the number of appointments until a time."""
        return sum(time <= until for time in self._times)

    def keep(self, now: float) -> bool:
        """Remove the first appointment if its time has come, and return whether it has."""
        if self._times and self._times[0] <= now:
            del self._times[0]
            return True
        return False

    def make(self, now: float, earliest: float, spacing: float) -> int:
        """Return after how many seconds to send a request again: not before `earliest`, nor before the previous one."""
        self._last = max(now + earliest, self._last + spacing) if self._times else now + earliest
        seconds = max(1, math.ceil(self._last - now))
        if len(self._times) < _APPOINTMENTS_MAX:
            self._times = sorted([*self._times, now + seconds])
        return seconds
