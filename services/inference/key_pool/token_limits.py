"""Token limits of a Groq key and model that refuse only large requests.

Groq counts a request's prompt and its `max_completion_tokens` against the tokens of a minute or a day before it
answers, so it refuses a large request when it would still answer a smaller one. A request that needs more than what is
left waits until the missing tokens are available again; smaller ones continue.

The tokens of a request are estimated, and the estimate may be too low. Therefore each account has a bound of its own:
after a refusal, its requests of at least half of the refused estimate wait. An account can cause a few refusals until
all of its requests wait, and affects no other account.
"""

from collections import OrderedDict

from services.inference.groq.errors import TokenShortfall

_ACCOUNTS_MAX = 1_000


class TokenLimits:
    """Limits of one key and model. Times are monotonic, in seconds."""

    __slots__ = ("_accounts", "_left", "_seconds_per_token", "_since", "_until")

    def __init__(self) -> None:
        self._left = 0
        self._since = self._until = 0.0
        self._seconds_per_token = 0.0
        self._accounts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By account: the tokens from which its requests wait, and until when."""

    def is_idle(self, now: float) -> bool:
        """Return whether no request of any size waits."""
        return self._until <= now and all(until <= now for _, until in self._accounts.values())

    def seconds_until_allowed(self, account_id: str, tokens: int, now: float) -> float:
        """Return the time until an account may send a request of about `tokens`; 0 if it may now."""
        until = min(self._until, self._since + (tokens - self._left) * self._seconds_per_token)
        least_waiting, own_until = self._accounts.get(account_id, (0, 0.0))
        return max(until - now, own_until - now if tokens >= least_waiting else 0.0, 0.0)

    def record(self, shortfall: TokenShortfall, *, seconds: float, now: float) -> None:
        """Record what is left, and that the refused request may be sent after `seconds`."""
        self._left, self._since, self._until = shortfall.left, now, now + seconds
        self._seconds_per_token = seconds / (shortfall.requested - shortfall.left)

    def record_refusal(self, account_id: str, tokens: int, *, seconds: float, now: float) -> None:
        """Record that a request of about `tokens` of an account was refused."""
        least_waiting, until = self._accounts.pop(account_id, (tokens, 0.0))
        # Requests that were in flight together are refused one by one; only a smaller one lowers the bound further.
        threshold = min(tokens // 2, least_waiting) if until > now else tokens // 2
        self._accounts[account_id] = threshold, max(until, now + seconds)
        if len(self._accounts) > _ACCOUNTS_MAX:
            self._accounts.popitem(last=False)
