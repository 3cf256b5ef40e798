"""What Groq's rate-limit headers and 429 texts say about how long a key has nothing left for a model.

`x-ratelimit-*-requests` counts a day's requests, `-tokens` a minute's tokens. Tokens per day stand in no header: only
the text of a 429 tells of them. Both budgets trickle back, so `-reset-requests` is the time until the whole day's
budget is full again: a key with none left has its next request after the limit's share of it.
"""

import re
from collections.abc import Mapping

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
_TRY_AGAIN = re.compile(r"try again in ([0-9hms.]*[hms])", re.ASCII)
_UNSAID_SECONDS = 1.0
"""Rest after a 429 that says nothing."""


def rest_after_answer(headers: Mapping[str, str]) -> float:
    """Return the seconds until the key has something left again; 0 when it has, or nothing is said."""
    rest = 0.0
    if _number(headers, "x-ratelimit-remaining-tokens") == 0:
        rest = duration(headers.get("x-ratelimit-reset-tokens", ""))
    if _number(headers, "x-ratelimit-remaining-requests") == 0:
        limit = _number(headers, "x-ratelimit-limit-requests") or 1
        rest = max(rest, duration(headers.get("x-ratelimit-reset-requests", "")) / limit)
    return rest


def rest_after_limit(headers: Mapping[str, str], message: str) -> float:
    """Return the seconds to leave a key alone that was answered 429; above 0 always.

    Args:
        headers: The answer's; `retry-after` is whole seconds.
        message: The error's text, which names the time of limits that no header tells.
    """
    named = _TRY_AGAIN.search(message)
    said = max(duration(named.group(1)) if named else 0.0, retry_after(headers))
    return said or rest_after_answer(headers) or _UNSAID_SECONDS


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds of `retry-after`; 0 when it is absent or odd."""
    return float(_number(headers, "retry-after") or 0)


def duration(text: str) -> float:
    """Return the seconds of a Go duration such as `9m38.016s`, `1h0m0s` or `400ms`; 0 when it is none."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return 0.0
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    # Longer ones are no amounts, and Python refuses to read them at all.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
