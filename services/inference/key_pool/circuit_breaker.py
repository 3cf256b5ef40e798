"""Circuit breaker for a Groq key and model, which no single account can open or keep open for the others.

The circuit opens after a number of consecutive failures. One account contributes at most a third of them, half if two
accounts use the model, or all if it is the only one. While the circuit is open, a few calls are allowed as probes, one
per account. The first success closes it.
"""

from collections import Counter

_OPEN_SECONDS = 1.0
_OPEN_SECONDS_MAX = 10.0
_PROBES_MAX = 3
_PROBE_SECONDS = 5.0
"""Time for which a probe blocks others; the call itself may take longer."""
_PROBE_PAUSE_SECONDS = 0.1
_TRAFFIC_SECONDS = 60.0
"""Time after its last call for which an account counts as using the model."""
_FAILURES_SECONDS = 300.0
"""Maximum time between two consecutive failures."""
_SHARES = 3
"""Number of accounts whose failures open the circuit, if at least that many use the model."""
_ACCOUNTS_MAX = 1_000


class CircuitBreaker:
    """Decides whether an account may make a call. Times are monotonic, in seconds."""

    __slots__ = (
        "_closings",
        "_failed_at",
        "_failures",
        "_failures_max",
        "_open_until",
        "_openings",
        "_probes",
        "_traffic",
    )

    def __init__(self, failures_max: int) -> None:
        """Create a closed circuit.

        Args:
            failures_max: Consecutive failures that open the circuit; 0 never opens it.
        """
        self._failures_max = failures_max
        self._failures: Counter[str] = Counter()
        """Consecutive failures by account. While the circuit is open, these accounts must wait."""
        self._failed_at = 0.0
        self._openings = 0
        """Consecutive openings; 0 while the circuit is closed."""
        self._closings = 1
        """How often a success closed the circuit, plus one."""
        self._open_until = 0.0
        self._probes: dict[str, float] = {}
        """Time until which each account's probe blocks others."""
        self._traffic: dict[str, float] = {}
        """Time of the last call of the most recent accounts, at most `_SHARES` of them."""

    @property
    def is_idle(self) -> bool:
        """Whether the circuit is closed and has no failures, so it can be discarded."""
        return not self._failures and not self._openings

    @property
    def is_open(self) -> bool:
        """Whether only probes are allowed."""
        return self._openings > 0

    def seconds_until_allowed(self, account_id: str, now: float) -> float:
        """Return the time until an account may make a call; 0 if it may now."""
        if not self._openings:
            return 0.0
        self._expire_probes(now)
        if account_id in self._probes or len(self._probes) >= _PROBES_MAX:
            return _PROBE_PAUSE_SECONDS
        # Only accounts with failures wait; the others may probe immediately.
        return max(0.0, self._open_until - now) if self._failures[account_id] else 0.0

    def begin(self, account_id: str, now: float) -> int:
        """Record the start of an allowed call and return the number of its probe; 0 if it is not a probe.

        The number is valid until the circuit closes: a later failure counts as that of any other call.
        """
        self._record_traffic(account_id, now)
        if not self._openings:
            return 0
        self._probes[account_id] = now + _PROBE_SECONDS
        return self._closings

    def end(self, account_id: str, probe: int) -> None:
        """Record the end of an account's probe, successful or not."""
        if probe == self._closings:
            self._probes.pop(account_id, None)

    def record_success(self) -> None:
        """Close the circuit."""
        self._failures.clear()
        self._closings += self.is_open
        self._openings = 0
        self._probes.clear()

    def record_failure(self, account_id: str, now: float, *, probe: int) -> float:
        """Count a failure and return the seconds for which it opens the circuit; 0 if it does not."""
        if not self._openings and now - self._failed_at > _FAILURES_SECONDS:
            self._failures.clear()
        self._failed_at = now
        if len(self._failures) < _ACCOUNTS_MAX or account_id in self._failures:
            self._failures[account_id] += 1
        # While the circuit is open, failures of calls that began before it opened do not extend it.
        opens = probe == self._closings or (not self._openings and self._is_at_limit(now))
        return self._open(now) if self._failures_max and opens else 0.0

    def _open(self, now: float) -> float:
        seconds = min(_OPEN_SECONDS * 2.0 ** min(self._openings, 10), _OPEN_SECONDS_MAX)
        self._openings += 1
        self._open_until = now + seconds
        return seconds

    def _is_at_limit(self, now: float) -> bool:
        accounts = sum(now - at < _TRAFFIC_SECONDS for at in self._traffic.values())
        # Integer arithmetic avoids rounding: three thirds must reach the limit.
        share, limit = self._failures_max, self._failures_max * accounts
        return sum(min(count * accounts, share) for count in self._failures.values()) >= limit

    def _record_traffic(self, account_id: str, now: float) -> None:
        self._traffic.pop(account_id, None)
        self._traffic[account_id] = now
        if len(self._traffic) > _SHARES:
            del self._traffic[next(iter(self._traffic))]

    def _expire_probes(self, now: float) -> None:
        self._probes = {account: until for account, until in self._probes.items() if until > now}
