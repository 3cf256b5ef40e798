"""Groq's encodings: JSON and durations as written by Go, and response headers."""

import msgspec

Headers = list[tuple[bytes, bytes]]

REQUESTS_PER_DAY = 1_000_000_000
"""Value of `x-ratelimit-limit-requests` while no limits are enforced (limits.py)."""
TOKENS_PER_MINUTE = 1_000_000_000
"""Value of `x-ratelimit-limit-tokens` while no limits are enforced."""

_encoder = msgspec.json.Encoder()
_ALWAYS: Headers = [
    (b"x-groq-region", b"local"),
    (b"cache-control", b"private, max-age=0, no-store, no-cache, must-revalidate"),
    (b"vary", b"Origin"),
]


def encode(value: object) -> bytes:
    """Encode `value` like Go's `encoding/json`, without the trailing newline.

    Go escapes `<`, `>`, `&` and the two Unicode line separators. They occur in JSON only within strings, so replacing
    them in the encoded bytes is safe.
    """
    raw = _encoder.encode(value)
    raw = raw.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")
    return raw.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def document(value: object) -> bytes:
    """Return `value` as a response body, which ends with a newline as from Go's encoder."""
    return encode(value) + b"\n"


def go_duration(seconds: float) -> str:
    """Format a duration like Go: `0s`, `400ms`, `1.57s`, `9m38.016s`, `1h0m0s`."""
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail


def common_headers(request_id: str, content_type: bytes) -> Headers:
    """Return the headers of all responses of Groq itself, not of its edge."""
    return [(b"content-type", content_type), (b"x-request-id", request_id.encode()), *_ALWAYS]


def limit_headers(tokens: int) -> Headers:
    """Return the six `x-ratelimit-*` headers of an answer with `tokens`, as if it were the only request."""
    spent = min(tokens, TOKENS_PER_MINUTE)
    reset_tokens = go_duration(spent * 60 / TOKENS_PER_MINUTE)
    return [
        (b"x-ratelimit-limit-requests", b"%d" % REQUESTS_PER_DAY),
        (b"x-ratelimit-limit-tokens", b"%d" % TOKENS_PER_MINUTE),
        (b"x-ratelimit-remaining-requests", b"%d" % (REQUESTS_PER_DAY - 1)),
        (b"x-ratelimit-remaining-tokens", b"%d" % (TOKENS_PER_MINUTE - spent)),
        (b"x-ratelimit-reset-requests", go_duration(86_400 / REQUESTS_PER_DAY).encode()),
        (b"x-ratelimit-reset-tokens", reset_tokens.encode()),
    ]
