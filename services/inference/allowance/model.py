"""Types of Groq's rate limits, and the port to the view of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol


class Window(StrEnum):
    """A rate limit of Groq: what it counts, and for how long."""

    REQUESTS_PER_MINUTE = "requests_per_minute"
    REQUESTS_PER_DAY = "requests_per_day"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    TOKENS_PER_DAY = "tokens_per_day"

    @property
    def counts_tokens(self) -> bool:
        """Whether it counts tokens; otherwise it counts requests."""
        return self in (Window.TOKENS_PER_MINUTE, Window.TOKENS_PER_DAY)

    @property
    def is_daily(self) -> bool:
        """Whether its time is a day; otherwise it is a minute."""
        return self in (Window.REQUESTS_PER_DAY, Window.TOKENS_PER_DAY)


Limits = Mapping[Window, int]
"""Limits of a key and model; a window that is missing has no known limit."""


class Observation(NamedTuple):
    """What Groq reports about one window of a key and model."""

    window: Window
    limit: int
    used: int
    """What Groq has counted, as of now."""


@dataclass(slots=True)
class Demand:
    """The next request of an account, and what else the account has waiting in this process."""

    account_id: str
    weight: int
    """Share of the account, relative to others."""
    tokens: int
    """Estimate of what Groq counts for the request."""
    keys: Sequence[int]
    """Indexes of the keys that can be used, in order of preference."""
    waiting_tokens: int = 0
    """Tokens of the account's waiting requests, this one included if it waits."""
    waiting_requests: int = 0
    """Number of the account's waiting requests, this one included if it waits."""


class Grant(NamedTuple):
    """Permission to send a request."""

    position: int
    """Index of the demand in the arguments of `acquire`."""
    key: int
    """Index of the key to use."""


class Turn(NamedTuple):
    """The result of `AllowanceView.acquire`."""

    grants: Sequence[Grant]
    seconds: float
    """Seconds to wait before the demands that were not granted are retried; 0 if all were granted."""
    is_behind: bool = False
    """Whether an account without a demand in this call has a smaller share so far and comes first."""


class Admission(NamedTuple):
    """The result of `AllowanceView.admit`."""

    is_admitted: bool
    seconds: float
    """The expected wait if it is admitted, otherwise the time after which to send the request again."""


@dataclass(slots=True)
class Settlement:
    """What a request that was granted has used."""

    model: str
    key: int
    account_id: str
    weight: int
    estimated: int
    """Tokens that were granted."""
    used: int
    """Tokens that Groq counts in the end."""
    requests: int = 1
    """0 if Groq does not count the request, because it was not sent or exceeded a rate limit."""


class AllowanceReader(Protocol):
    """Port to what is left of Groq's limits, for operators."""

    @property
    def is_shared(self) -> bool:
        """Whether the view follows that of all replicas; otherwise it is this replica's own."""

    def allowances(self) -> Iterator[tuple[int, str, Window, int, float]]:
        """Yield index of a key, model, window, limit and what is left of it, for each known limit."""


class AllowanceView(AllowanceReader, Protocol):
    """Port to the view of Groq's limits and of the order in which accounts are served."""

    def tokens_max(self, model: str) -> float:
        """Return the most tokens that one request can have by the known limits of a model; infinite without any."""

    async def acquire(self, model: str, demands: Sequence[Demand], *, grants_max: int, is_waiting: bool) -> Turn:
        """Take tokens for as many demands as possible. The account with the smallest share so far comes first.

        Args:
            model: Groq's model.
            demands: The next request of each account.
            grants_max: Maximum number of grants.
            is_waiting: Whether the requests wait. Their accounts then ask until they are granted everything, or
                `pause` or `leave`: others that were served more are not served before them.
        """

    async def admit(self, model: str, demand: Demand, *, wait_max: float, wait_min: float) -> Admission:
        """Decide whether a request may wait.

        Args:
            model: Groq's model.
            demand: The request, and what its account has waiting without it.
            wait_max: Maximum wait in seconds; a negative one admits nothing.
            wait_min: Minimum wait in seconds for reasons that the view does not know.
        """

    def pause(self, model: str, account_id: str) -> None:
        """Record that an account waits in this process, but could not be served now: no other one waits for it."""

    def leave(self, model: str, account_id: str) -> None:
        """Record that nothing of an account waits in this process any more."""

    def settle(self, settlement: Settlement) -> None:
        """Correct the estimate of a request that was granted."""

    def observe(self, model: str, key: int, observations: Sequence[Observation]) -> None:
        """Record what Groq reports."""
