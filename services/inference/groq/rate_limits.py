"""Parsing of Groq's rate-limit headers and 429 messages into cool-downs.

`x-ratelimit-*-requests` is the limit of requests per day, `x-ratelimit-*-tokens` that of tokens per minute. The limit
of tokens per day appears only in the message of a 429. Both budgets refill continuously, so `-reset-requests` is the
time until the whole day's budget is full again. A key without requests left gets its next one after that time divided
by the limit.
"""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from services.inference.allowance.model import Observation, Window
from services.inference.groq.errors import TokenShortfall

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
_DECIMAL = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_TRY_AGAIN = re.compile(r"try again in ([0-9hms.]*[hms])", re.ASCII)
_LIMIT = re.compile(r"(requests|tokens) per (minute|day)[^:]{0,40}: Limit (\d{1,15}), Used (\d{1,15})", re.ASCII)
_TOKENS = re.compile(r"tokens per [^:]{1,40}: Limit (\d{1,15}), Used (\d{1,15}), Requested (\d{1,15})", re.ASCII)
_DEFAULT_SECONDS = 1.0
"""Cool-down after a 429 without a time."""
_SECONDS_MAX = 86_400.0


def cooldown_after_answer(headers: Mapping[str, str]) -> float:
    """Return the seconds until the key has requests and tokens left; 0 if it has, or if there are no such headers."""
    seconds = 0.0
    if _number(headers, "x-ratelimit-remaining-tokens") == 0:
        seconds = duration(headers.get("x-ratelimit-reset-tokens", ""))
    if _number(headers, "x-ratelimit-remaining-requests") == 0:
        limit = _number(headers, "x-ratelimit-limit-requests") or 1
        seconds = max(seconds, duration(headers.get("x-ratelimit-reset-requests", "")) / limit)
    return min(seconds, _SECONDS_MAX)


def cooldown_after_limit(headers: Mapping[str, str], message: str) -> float:
    """Return the cool-down after a 429, in seconds; always above 0.

    Args:
        headers: Headers of the response.
        message: Message of the error, which contains the time for limits without a header.
    """
    match = _TRY_AGAIN.search(message)
    seconds = max(duration(match.group(1)) if match else 0.0, retry_after(headers))
    return min(seconds, _SECONDS_MAX) or cooldown_after_answer(headers) or _DEFAULT_SECONDS


def observed_in_headers(headers: Mapping[str, str]) -> list[Observation]:
    """Return what a response's headers report: the requests of the day, and the tokens of the minute."""
    observations = []
    for window, name in ((Window.REQUESTS_PER_DAY, "requests"), (Window.TOKENS_PER_MINUTE, "tokens")):
        limit, left = (_number(headers, f"x-ratelimit-{kind}-{name}") for kind in ("limit", "remaining"))
        if limit and left is not None:
            observations.append(Observation(window, limit, max(0, limit - left)))
    return observations


def observed_in_message(message: str) -> list[Observation]:
    """Return what a 429's text reports; the limits of a minute's requests and a day's tokens appear only there."""
    found = _LIMIT.search(message)
    if found is None or not int(found[3]):
        return []
    return [Observation(Window(f"{found[1]}_per_{found[2]}"), int(found[3]), int(found[4]))]


def token_shortfall(message: str) -> TokenShortfall | None:
    """Return the tokens that a 429's text reports as left for smaller requests; None without a report.

    Args:
        message: The error's text, such as `… on tokens per minute (TPM): Limit 6000, Used 1000, Requested 5900. …`.
    """
    found = _TOKENS.search(message)
    if found is None:
        return None
    limit, used, requested = map(int, found.groups())
    left = max(0, limit - used)
    return TokenShortfall(left, requested) if requested > left else None


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait by `retry-after-ms` or `retry-after`; 0 if both are missing or malformed.

    `retry-after-ms` is milliseconds (an OpenAI extension); `retry-after` is seconds, which may have a fraction, or an
    HTTP date (RFC 9110 §10.2.3).
    """
    milliseconds = _decimal(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, _SECONDS_MAX)
    text = headers.get("retry-after", "").strip()
    seconds = _decimal(text)
    return min(_seconds_until(text) if seconds is None else seconds, _SECONDS_MAX)


def duration(text: str) -> float:
    """Parse a Go duration such as `9m38.016s`, `1h0m0s` or `400ms` into seconds; 0 if it is malformed."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _decimal(text: str) -> float | None:
    return float(text) if _DECIMAL.fullmatch(text.strip()) else None


def _seconds_until(date: str) -> float:
    try:
        moment = parsedate_to_datetime(date)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    # Longer numbers are implausible, and `int` rejects very long ones.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
