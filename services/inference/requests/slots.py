"""Requests that need a call to Groq, the slots for calls, and the permits for concurrent ones."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.inference.allowance.model import AllowanceView, Observation

_DURATION_WEIGHT = 0.1
"""Weight of the latest call in the mean duration of calls."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the queue and of concurrent calls."""

    calls_max: int
    """Maximum concurrent calls."""
    calls_per_account_max: int
    """Maximum concurrent calls of one account; applies once several accounts use the service."""
    waiting_max: int
    """Maximum number of waiting requests. Beyond it, the account with the most per weight loses its newest."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that needs a slot."""

    account_id: str
    weight: int
    tokens: int
    """Estimate of what Groq counts for the request."""
    deadline: float = math.inf
    """Monotonic time until which it may wait."""
    _granted: "asyncio.Future[Slot | None] | None" = field(default=None, init=False, repr=False)

    @property
    def granted(self) -> "asyncio.Future[Slot | None]":
        """The slot; None if the request must be refused."""
        if self._granted is None:
            self._granted = asyncio.get_running_loop().create_future()
        return self._granted

    def refuse(self) -> None:
        """End the wait without a slot. A caller that has just left is not told."""
        if not self.granted.done():
            self.granted.set_result(None)


@dataclass(slots=True, eq=False)
class Slot:
    """Permission to make one call to Groq; `release` ends it."""

    _view: AllowanceView = field(repr=False)
    _on_release: "Callable[[Slot], None]" = field(repr=False)
    model: str
    key: int
    """Index of the key to use."""
    waiter: Waiter
    began: float
    used: int | None = None
    """Tokens that Groq counts for the call; None if they are not known, and then the estimate counts."""
    requests: int = 1
    """0 if Groq does not count the call."""

    def observe(self, observations: Sequence[Observation]) -> None:
        """Record what Groq reports about its limits."""
        if observations:
            self._view.observe(self.model, self.key, observations)

    def release(self) -> None:
        """End the call, and correct the estimate of its tokens."""
        self._on_release(self)


class Permits:
    """Permits for concurrent calls, in total and of each account."""

    def __init__(self, limits: Limits, *, is_shared: bool) -> None:
        """Create permits, none of which are used.

        Args:
            limits: How many there are.
            is_shared: Whether several accounts already use the service.
        """
        self._limits = limits
        self._is_shared = is_shared
        self._only_account = ""
        self._of_accounts: Counter[str] = Counter()
        self._call_seconds = 0.0
        """Mean duration of calls."""
        self.used = 0
        """Number of calls in progress."""

    @property
    def free(self) -> int:
        """Number of further calls that could be made at once."""
        return self._limits.calls_max - self.used

    def record_account(self, account_id: str) -> None:
        """Record that an account uses the service."""
        is_another = account_id and self._only_account and account_id != self._only_account
        self._is_shared = self._is_shared or bool(is_another)
        self._only_account = self._only_account or account_id

    def has_room(self, account_id: str) -> bool:
        """Return whether an account may make another call now."""
        return self.free > 0 and not self._is_at_own_limit(account_id)

    def take(self, account_id: str) -> None:
        """Take a permit."""
        self._of_accounts[account_id] += 1
        self.used += 1

    def give_back(self, account_id: str) -> None:
        """Give a permit back."""
        self.used -= 1
        self._of_accounts[account_id] -= 1
        if not self._of_accounts[account_id]:
            del self._of_accounts[account_id]

    def record_duration(self, seconds: float) -> None:
        """Record how long a call took."""
        self._call_seconds += _DURATION_WEIGHT * (seconds - self._call_seconds)

    def seconds_until_free(self, account_id: str, waiting_of_account: int, waiting: int) -> float:
        """Return the expected wait for a permit; 0 if there is one now.

        Args:
            account_id: The account.
            waiting_of_account: Number of its waiting requests.
            waiting: Number of all waiting requests.
        """
        if self.has_room(account_id):
            return 0.0
        if self._is_at_own_limit(account_id):
            return (waiting_of_account + 1) * self._call_seconds / self._limits.calls_per_account_max
        return (waiting + 1) * self._call_seconds / self._limits.calls_max

    def _is_at_own_limit(self, account_id: str) -> bool:
        own = self._of_accounts[account_id] if account_id else 0
        return bool(account_id) and self._is_shared and own >= self._limits.calls_per_account_max
