"""A circuit breaker for one Groq key and model that no single account can open or keep open for others.

It opens after a number of failures in a row. Of those, one account contributes at most a third, or half where only two
accounts use the model, or all where it is the only one. While the circuit is open, a few calls are let through as
probes, one for each account; the first success closes it.
"""

from collections import Counter

_OPEN_SECONDS = 1.0
_OPEN_SECONDS_MAX = 10.0
_PROBES_MAX = 3
_PROBE_SECONDS = 5.0
"""How long a probe keeps others from probing; the call itself may take longer."""
_PROBE_PAUSE_SECONDS = 0.1
_TRAFFIC_SECONDS = 60.0
"""How long an account counts as using the model after its last call."""
_FAILURES_SECONDS = 300.0
"""Failures with a longer pause between them are not in a row."""
_SHARES = 3
"""How many accounts it takes to open the circuit, where that many use the model."""
_ACCOUNTS_MAX = 1_000


class CircuitBreaker:
    """Decides whether a call may be made. Times are of a monotonic clock, in seconds."""

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
        """Open after `failures_max` failures in a row; 0 never opens."""
        self._failures_max = failures_max
        self._failures: Counter[str] = Counter()
        """Failures in a row, by account; while open, the accounts that must wait."""
        self._failed_at = 0.0
        self._openings = 0
        """In a row; 0 while the circuit is closed."""
        self._closings = 1
        """How often a success closed the circuit, and one."""
        self._open_until = 0.0
        self._probes: dict[str, float] = {}
        """When each account's probe stops keeping others from probing."""
        self._traffic: dict[str, float] = {}
        """When the latest accounts made their last call, at most `_SHARES` of them."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is known that would be missed."""
        return not self._failures and not self._openings

    @property
    def is_open(self) -> bool:
        """Whether only probes are let through."""
        return self._openings > 0

    def seconds_until_allowed(self, account_id: str, now: float) -> float:
        """Return the time until an account may make a call; 0 when it may now."""
        if not self._openings:
            return 0.0
        self._expire_probes(now)
        if account_id in self._probes or len(self._probes) >= _PROBES_MAX:
            return _PROBE_PAUSE_SECONDS
        # An account that has not failed since the circuit opened does not pay for those that have.
        return max(0.0, self._open_until - now) if self._failures[account_id] else 0.0

    def begin(self, account_id: str, now: float) -> int:
        """Note that an allowed call is made; return the number of its probe, 0 when it is none.

        The circuit's next closing ends what the number stands for: a later failure is that of any other call.
        """
        self._note_traffic(account_id, now)
        if not self._openings:
            return 0
        self._probes[account_id] = now + _PROBE_SECONDS
        return self._closings

    def end(self, account_id: str, probe: int) -> None:
        """Note that an account's probe has ended, however it ended."""
        if probe == self._closings:
            self._probes.pop(account_id, None)

    def record_success(self) -> None:
        """Close the circuit: Groq answers."""
        self._failures.clear()
        self._closings += self.is_open
        self._openings = 0
        self._probes.clear()

    def record_failure(self, account_id: str, now: float, *, probe: int) -> float:
        """Count a failure; return for how many seconds the circuit opens because of it, 0 when it does not."""
        if not self._openings and now - self._failed_at > _FAILURES_SECONDS:
            self._failures.clear()
        self._failed_at = now
        if len(self._failures) < _ACCOUNTS_MAX or account_id in self._failures:
            self._failures[account_id] += 1
        # Calls that began before the circuit opened say nothing new.
        opens = probe == self._closings or (not self._openings and self._is_at_limit(now))
        return self._open(now) if self._failures_max and opens else 0.0

    def _open(self, now: float) -> float:
        seconds = min(_OPEN_SECONDS * 2.0 ** min(self._openings, 10), _OPEN_SECONDS_MAX)
        self._openings += 1
        self._open_until = now + seconds
        return seconds

    def _is_at_limit(self, now: float) -> bool:
        accounts = sum(now - at < _TRAFFIC_SECONDS for at in self._traffic.values())
        # Whole numbers, so that three thirds are one.
        share, limit = self._failures_max, self._failures_max * accounts
        return sum(min(count * accounts, share) for count in self._failures.values()) >= limit

    def _note_traffic(self, account_id: str, now: float) -> None:
        self._traffic.pop(account_id, None)
        self._traffic[account_id] = now
        if len(self._traffic) > _SHARES:
            del self._traffic[next(iter(self._traffic))]

    def _expire_probes(self, now: float) -> None:
        self._probes = {account: until for account, until in self._probes.items() if until > now}
