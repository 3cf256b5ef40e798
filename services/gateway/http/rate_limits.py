"""Rate limits in responses: headers with OpenAI's and Groq's names, and what a refused client can do."""

from dataclasses import dataclass, field

from services.common.limits import Unit, Window
from services.common.prices import dollars
from services.gateway.requests.types import Hold, LimitReached, RateLimit

_DAY_SECONDS = 86_400
_MONTH_SECONDS = 31 * _DAY_SECONDS
RETRIED_SECONDS_MAX = 60
"""OpenAI's and Groq's clients wait up to a minute before they send a refused request again."""
_NAMES = {
    (Unit.REQUESTS, Window.MINUTE): "requests per minute (RPM)",
    (Unit.REQUESTS, Window.DAY): "requests per day (RPD)",
    (Unit.TOKENS, Window.MINUTE): "tokens per minute (TPM)",
    (Unit.TOKENS, Window.DAY): "tokens per day (TPD)",
    (Unit.COST, Window.DAY): "cost per day",
    (Unit.COST, Window.MONTH): "cost per month",
    (Unit.CONCURRENT_REQUESTS, None): "concurrent requests",
}
_HEADER_UNITS = frozenset({Unit.REQUESTS, Unit.TOKENS})


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client learns about a limit that refuses its request."""

    message: str
    code: str
    headers: dict[str, str] = field(default_factory=dict)
    resets_at: float | None = None
    """Unix seconds at which the limit resets; None if requests in flight may free enough before."""


def refusal(error: LimitReached, *, now: float) -> Refusal:
    """Describe a limit that is reached: what is used, and when a retry can succeed. `now` is in Unix seconds."""
    limit, requested = error.rate_limit, error.requested
    headers = rate_limit_headers(limit, now=now) if limit.unit in _HEADER_UNITS else {}
    scope = "your account" if limit.is_of_account else "this API key"
    code = "insufficient_quota" if limit.unit is Unit.COST else "rate_limit_exceeded"
    start = f"Rate limit reached for {scope} on {_NAMES[limit.unit, limit.window]}"
    used = ", ".join(
        f"{name} {_amount(limit.unit, amount)}"
        for name, amount in (("Limit", limit.limit), ("Used", limit.charged), ("In use", limit.held))
    )
    used = f"{used}, Requested {'at least ' if limit.unit in _ESTIMATED else ''}{_amount(limit.unit, requested)}."
    if not limit.limit:
        message = f"{start}: Limit 0. It allows no requests. Ask the operator of this service for a higher limit."
        return Refusal(message, code, headers | {"x-should-retry": "false"}, limit.reset_at)
    if requested > limit.limit:
        message = f"{start}: {used} The request is larger than the limit. Shorten the prompt."
        return Refusal(message, code, headers | {"x-should-retry": "false"}, limit.reset_at)
    if limit.charged + requested <= limit.limit or limit.window is None:
        message = (
            f"{start}, including requests in progress: {used} "
            "A request in progress is not counted if it fails. Try again in a moment."
        )
        return Refusal(message, code, headers | {"retry-after": "1"})
    wait = _rounded_up(limit.reset_at - now, _MONTH_SECONDS)
    headers["retry-after"] = str(wait)
    if wait > RETRIED_SECONDS_MAX:
        # Without this header, the OpenAI and Groq clients retry each rejected call twice.
        headers["x-should-retry"] = "false"
    at = "" if limit.window is Window.MINUTE else " at 00:00 UTC,"
    return Refusal(f"{start}: {used} Resets{at} in {_wait(wait)}.", code, headers, limit.reset_at)


_ESTIMATED = frozenset({Unit.TOKENS, Unit.COST})


def rate_limit_headers(rate_limit: RateLimit, *, now: float) -> dict[str, str]:
    """Return the headers of a limit of requests or tokens."""
    unit = rate_limit.unit.value
    return {
        f"x-ratelimit-limit-{unit}": str(rate_limit.limit),
        f"x-ratelimit-remaining-{unit}": str(rate_limit.remaining),
        f"x-ratelimit-reset-{unit}": duration(rate_limit.reset_at - now),
    }


def hold_headers(hold: Hold, *, now: float) -> dict[str, str]:
    """Return the headers of the tightest limits of a held request, of requests and of tokens."""
    headers = rate_limit_headers(hold.rate_limit, now=now)
    if hold.tokens is not None:
        headers |= rate_limit_headers(hold.tokens, now=now)
    return headers


def duration(seconds: float) -> str:
    """Format seconds, rounded up, as `7h12m3s`. The result is at least `1s` and at most a day."""
    total = _rounded_up(seconds, _DAY_SECONDS)
    hours, minutes = divmod(total // 60, 60)
    parts = [(hours, "h"), (minutes, "m"), (total % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return "".join(f"{value}{unit}" for value, unit in parts)


def _wait(seconds: int) -> str:
    days, rest = divmod(seconds, _DAY_SECONDS)
    return f"{days} days" if days > 1 else duration(seconds if seconds <= _DAY_SECONDS else rest + _DAY_SECONDS)


def _amount(unit: Unit, amount: int) -> str:
    return f"${dollars(amount)}" if unit is Unit.COST else str(amount)


def _rounded_up(seconds: float, seconds_max: int) -> int:
    return min(max(1, -int(-seconds // 1)), seconds_max)
