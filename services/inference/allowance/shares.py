"""The order in which accounts are served, and the times that refused requests are given.

Each account has a finish time in virtual time: the tokens served to it per weight. The account with the lowest is
served first, so accounts that always have requests get tokens in proportion to their weights, however many requests or
keys they have. An account that had nothing to send starts at the current virtual time: it cannot save up its share.
This is start-time fair queueing (Goyal, Vin and Cheng, 1996). It gives the shares of deficit round robin, and needs one
number for each account that replicas can share.
"""

import math
from collections import OrderedDict
from collections.abc import Collection

RETRY_SPACING = 1.1
"""Factor of the time between the requests that an account is asked to send again, so that its queue gets shorter."""
_ACCOUNTS_MAX = 10_000
_APPOINTMENTS_MAX = 500


class Shares:
    """Tokens served to each account per weight."""

    def __init__(self) -> None:
        self._finish: OrderedDict[str, float] = OrderedDict()
        self._served: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Weight of the accounts that were served, and when, in that order."""
        self._virtual = 0.0
        self.waiting: dict[str, int] = {}
        """Weights of the accounts with waiting requests."""
        self._asking: set[str] = set()
        """Those whose next request could be sent at once if the order and the limits allowed it."""

    def start(self, account_id: str) -> float:
        """Return the account's place in the order: the lowest is served first."""
        finish = self._finish.get(account_id, 0.0)
        return finish if account_id in self._asking else max(finish, self._virtual)

    def first_other(self, account_ids: Collection[str]) -> float:
        """Return the lowest place of the accounts that ask, without some of them."""
        return min((self.start(account) for account in self._asking.difference(account_ids)), default=math.inf)

    def serve(self, account_id: str, tokens: float, weight: int, now: float) -> None:
        """Count tokens that are served to an account."""
        start = self.start(account_id)
        self._virtual = max(self._virtual, start)
        self._finish[account_id] = start + tokens / weight
        self._finish.move_to_end(account_id)
        self._served[account_id] = weight, now
        self._served.move_to_end(account_id)
        for accounts in (self._finish, self._served):
            if len(accounts) > _ACCOUNTS_MAX:
                accounts.popitem(last=False)

    def correct(self, account_id: str, tokens: float, weight: int) -> None:
        """Add the difference between an estimate and the use."""
        if account_id in self._finish:
            self._finish[account_id] += tokens / weight

    def enter(self, account_id: str, weight: int) -> None:
        """Record that requests of an account wait."""
        self._finish[account_id] = self.start(account_id)
        self.waiting[account_id] = weight

    def ask(self, account_id: str, weight: int) -> None:
        """Record that a waiting request of an account could be sent at once if its turn came."""
        self.enter(account_id, weight)
        self._asking.add(account_id)

    def pause(self, account_id: str) -> None:
        """Record that an account waits for something else than its turn."""
        self._asking.discard(account_id)

    def leave(self, account_id: str) -> None:
        """Record that no request of an account waits."""
        self.waiting.pop(account_id, None)
        self._asking.discard(account_id)

    def owed(self, account_id: str, weight: int) -> float:
        """Return how many tokens the account was served beyond its share: others that ask are served first."""
        if not self._asking - {account_id}:
            return 0.0
        return max(0.0, self.start(account_id) - self._virtual) * weight

    def share(self, account_id: str, weight: int, *, served_since: float) -> float:
        """Return the account's part of the allowance, from 0 to 1.

        Args:
            account_id: The account.
            weight: Its weight.
            served_since: Accounts that were served since then compete for the allowance, besides those that wait.
        """
        weights = {account_id: weight} | self.waiting
        for account, (other, at) in reversed(self._served.items()):
            if at < served_since:
                break
            weights[account] = other
        return weight / sum(weights.values())


class Appointments:
    """When requests of one account that could not wait should be sent again.

    A request that comes at its time is admitted before new ones, which are given later times. Without this, new
    requests would take the places of those that wait outside, and `retry-after` would not be true.
    """

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: list[tuple[float, float]] = []
        """Start of each slot, and the time that was given, which is a whole number of seconds after the refusal."""

    def expire(self, now: float, grace: float) -> bool:
        """Forget appointments that were not kept within `grace` seconds. Return whether any are left."""
        self._slots = [slot for slot in self._slots if slot[1] > now - grace]
        return bool(self._slots)

    def due(self, until: float) -> int:
        """Return the number of appointments until a time."""
        return sum(at <= until for _, at in self._slots)

    def keep(self, now: float) -> bool:
        """Remove an appointment whose time has come, and return whether there was one."""
        kept = next((slot for slot in self._slots if slot[1] <= now), None)
        if kept is not None:
            self._slots.remove(kept)
        return kept is not None

    def make(self, now: float, earliest: float, spacing: float) -> int:
        """Return after how many seconds to send a request again: the first free slot from `earliest` seconds on."""
        start = now + earliest
        for other, _ in self._slots:
            if other >= start + spacing:
                break
            start = max(start, other + spacing)
        seconds = max(1, math.ceil(start - now))
        if len(self._slots) < _APPOINTMENTS_MAX:
            self._slots = sorted([*self._slots, (start, now + seconds)])
        return seconds
