"""What a key has left of a model's tokens, where Groq refused a request only because of its size.

Groq counts a request's prompt and its `max_completion_tokens` against the tokens of a minute or a day before it
answers. So a large request is refused where a smaller one is answered: it must not close the key for the smaller ones.
A request that asks for more than what is left waits for as long as what it lacks takes to come back, and others go on.

What a request asks for is an estimate here, and may be too low. So each account has a bound of its own too: after a
refusal its requests of at least half of that estimate wait. It can provoke a few refusals until all of its requests
wait, and affects no other account.
"""

from collections import OrderedDict

from services.inference.groq.errors import TokenShortfall

_ACCOUNTS_MAX = 1_000


class TokenLimits:
    """Which requests wait, for one key and model. Times are of a monotonic clock, in seconds."""

    __slots__ = ("_accounts", "_left", "_seconds_per_token", "_since", "_until")

    def __init__(self) -> None:
        """Let every request go on."""
        self._left = 0
        self._since = self._until = 0.0
        self._seconds_per_token = 0.0
        self._accounts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """The tokens from which on an account's requests wait, and until when."""

    def is_idle(self, now: float) -> bool:
        """Return whether no request of any size waits."""
        return self._until <= now and all(until <= now for _, until in self._accounts.values())

    def seconds_until_allowed(self, account_id: str, tokens: int, now: float) -> float:
        """Return the time until an account may send a request of about so many tokens; 0 when it may now."""
        until = min(self._until, self._since + (tokens - self._left) * self._seconds_per_token)
        least_waiting, own_until = self._accounts.get(account_id, (0, 0.0))
        return max(until - now, own_until - now if tokens >= least_waiting else 0.0, 0.0)

    def record(self, shortfall: TokenShortfall, *, seconds: float, now: float) -> None:
        """Note what is left for all, and that the refused request may be sent in so many seconds."""
        self._left, self._since, self._until = shortfall.left, now, now + seconds
        self._seconds_per_token = seconds / (shortfall.requested - shortfall.left)

    def record_refusal(self, account_id: str, tokens: int, *, seconds: float, now: float) -> None:
        """Note that an account's request of about so many tokens was refused."""
        least_waiting, until = self._accounts.pop(account_id, (tokens, 0.0))
        if until > now:
            tokens = min(tokens, least_waiting)
        self._accounts[account_id] = tokens // 2, max(until, now + seconds)
        if len(self._accounts) > _ACCOUNTS_MAX:
            self._accounts.popitem(last=False)
