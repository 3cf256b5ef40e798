"""Error responses of Groq.

There is no public record of the bodies of 403, 422, 424, 500, 502 and 503; those here are guesses in Groq's format.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate

from tools.groq_standin.script import RetryAfter
from tools.groq_standin.wire import Headers, document, go_duration

ORGANISATION = "org_01standin0000000000000000"
"""The organisation id in messages about limits. The gateway must not pass it on."""
_BILLING = "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
_JSON = b"application/json"
_TWO_SECONDS = RetryAfter(2_000, "seconds")
_HTML = b"text/html; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error response."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    is_counted: bool = True
    """Whether the response has `x-ratelimit-*` headers. Failed authentication does not."""
    is_from_edge: bool = False
    """Whether the response comes from Cloudflare, without Groq's headers."""


class Refused(Exception):
    """The request is refused. `refusal` has the response."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Asked:
    """Facts of the request that appear in error messages."""

    model: str
    tokens: int
    retry_after: RetryAfter = _TWO_SECONDS


def envelope(message: str, kind: str = "invalid_request_error", **extra: object) -> dict[str, object]:
    """Return Groq's error object. Missing `param` and `code` are absent, not null."""
    return {"error": {"message": message, "type": kind, **extra}}


def refusal(status: int, message: str, kind: str = "invalid_request_error", **extra: object) -> Refusal:
    """Return a refusal with a JSON body."""
    return Refusal(status, document(envelope(message, kind, **extra)))


def invalid_key() -> Refusal:
    """Return the response to a missing or unknown key."""
    body = document(envelope("Invalid API Key", code="invalid_api_key"))
    return Refusal(401, body, is_counted=False)


def unknown_model(model: str) -> Refusal:
    """Return the response to an unknown model."""
    text = f"The model `{model}` does not exist or you do not have access to it."
    return refusal(404, text, code="model_not_found")


def unknown_url(method: str, path: str) -> Refusal:
    """Return the response to an unknown method and path."""
    text = f"Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at "
    return refusal(404, text + "https://console.groq.com/docs/", code="unknown_url")


def context_length() -> Refusal:
    """Return the response to a conversation that exceeds the context window."""
    text = "Please reduce the length of the messages or completion."
    return refusal(400, text, param="messages", code="context_length_exceeded")


def _limit_text(asked: Asked, limit: str) -> str:
    return f"for model `{asked.model}` in organization `{ORGANISATION}` service tier `on_demand` on {limit}"


def _too_large(asked: Asked) -> Refusal:
    limit = f"tokens per minute (TPM): Limit 6000, Requested {asked.tokens + 6000}"
    text = f"Request too large {_limit_text(asked, limit)}, please reduce your message size and try again. {_BILLING}"
    return refusal(413, text, "tokens", code="rate_limit_exceeded")


def with_retry_after(refusal: Refusal, wait: RetryAfter) -> Refusal:
    """Return a refusal with a `retry-after` or `retry-after-ms` header in the form of `wait`."""
    others = tuple(header for header in refusal.headers if header[0] != b"retry-after")
    return replace(refusal, headers=(*others, _retry_header(wait)))


def _retry_header(wait: RetryAfter) -> tuple[bytes, bytes]:
    whole = math.ceil(wait.milliseconds / 1000)
    match wait.form:
        case "fraction":
            return b"retry-after", f"{wait.milliseconds / 1000:.3f}".encode()
        case "date":
            return b"retry-after", formatdate(time.time() + whole, usegmt=True).encode()
        case "ms":
            return b"retry-after-ms", b"%d" % wait.milliseconds
    return b"retry-after", b"%d" % whole


def _rate_limited(asked: Asked, limit: str, wait: RetryAfter) -> Refusal:
    duration = go_duration(wait.milliseconds / 1000)
    text = f"Rate limit reached {_limit_text(asked, limit)}, Requested {asked.tokens}. Please try again in {duration}. "
    body = document(envelope(text + _BILLING, "tokens", code="rate_limit_exceeded"))
    headers = ((b"x-ratelimit-remaining-tokens", b"0"), (b"x-ratelimit-reset-tokens", duration.encode()))
    return with_retry_after(Refusal(429, body, headers=headers), wait)


def rate_limited(model: str, limit: str, requested: int, seconds: float, headers: Headers) -> Refusal:
    """Return the 429 of a limit that is enforced.

    Args:
        model: The model.
        limit: The limit with its use, such as `tokens per minute (TPM): Limit 6000, Used 5034`.
        requested: What the request counts.
        seconds: Time until there is enough for it.
        headers: The `x-ratelimit-*` headers.
    """
    wait = RetryAfter(max(1, math.ceil(seconds * 1000)), "seconds")
    asked = Asked(model, requested)
    text = f"Rate limit reached {_limit_text(asked, limit)}, Requested {requested}. "
    text += f"Please try again in {go_duration(wait.milliseconds / 1000)}. {_BILLING}"
    body = document(envelope(text, limit.partition(" ")[0], code="rate_limit_exceeded"))
    return with_retry_after(Refusal(429, body, headers=tuple(headers)), wait)


def _per_minute(asked: Asked) -> Refusal:
    return _rate_limited(asked, "tokens per minute (TPM): Limit 6000, Used 5998", asked.retry_after)


def _per_day(asked: Asked) -> Refusal:
    return _rate_limited(asked, "tokens per day (TPD): Limit 200000, Used 199998", RetryAfter(578_016, "seconds"))


def _page(status: int, title: str) -> Refusal:
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1><p>cloudflare</p></body>"
    headers = ((b"server", b"cloudflare"), (b"cf-ray", b"0000000000000000-LOC"))
    return Refusal(status, f"{page}</html>\n".encode(), _HTML, headers, is_counted=False, is_from_edge=True)


def _failed_generation(code: str, what: str, generation: str) -> Refusal:
    text = f"Failed to {what}. Please adjust your prompt. See 'failed_generation' for more details."
    return refusal(400, text, code=code, failed_generation=generation)


def _decommissioned(asked: Asked) -> Refusal:
    text = (
        f"The model `{asked.model}` has been decommissioned and is no longer supported. Please refer to "
        "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead."
    )
    return refusal(400, text, code="model_decommissioned")


def _blocked(asked: Asked) -> Refusal:
    text = (
        f"The model `{asked.model}` is blocked at the organization level. Please have the org admin enable this model "
        "in the org settings at https://console.groq.com/settings/limits"
    )
    return refusal(403, text, "permissions_error", code="model_permission_blocked_org")


def _terms(asked: Asked) -> Refusal:
    text = (
        f"The model `{asked.model}` requires terms acceptance. Please have the org admin accept the terms at "
        f"https://console.groq.com/playground?model={asked.model}"
    )
    return refusal(400, text, code="model_terms_required")


def _restricted() -> Refusal:
    text = "Organization has been restricted. Please reach out to support if you believe this was in error."
    return refusal(400, text, code="organization_restricted")


REFUSALS: dict[str, Callable[[Asked], Refusal]] = {
    "400": lambda _: refusal(400, "property 'standin' is unsupported"),
    "401": lambda _: invalid_key(),
    "403": lambda _: refusal(403, "Forbidden", code="permissions_error"),
    "403-html": lambda _: _page(403, "Access denied"),
    "404": lambda asked: unknown_model(asked.model),
    "413": _too_large,
    "422": lambda _: refusal(422, "Unprocessable Entity"),
    "424": lambda _: refusal(424, "Failed Dependency: the remote MCP server refused the credentials"),
    "429": _per_minute,
    "429-day": _per_day,
    "498": lambda _: refusal(498, "`flex` tier capacity exceeded, try again later", code="capacity_exceeded"),
    "500": lambda _: refusal(500, "Internal Server Error", "internal_server_error"),
    "502-html": lambda _: _page(502, "502 Bad Gateway"),
    "503": lambda _: refusal(503, "Service Unavailable", "internal_server_error"),
    "tool_use_failed": lambda _: _failed_generation(
        "tool_use_failed", "call a function", "<function=get_weather>{bad}</function>"
    ),
    "json_validate_failed": lambda _: _failed_generation("json_validate_failed", "generate JSON", '{"answer": '),
    "context_length": lambda _: context_length(),
    "decommissioned": _decommissioned,
    "restricted": lambda _: _restricted(),
    "model_blocked": _blocked,
    "model_terms": _terms,
}
"""Refusals by marker name."""


def generation_failure(status: int, **extra: object) -> dict[str, object]:
    """Return the error object of a failure during generation. In a stream it also has a `status_code`."""
    if status < 500:
        text, kind, code = "tool call validation failed", "invalid_request_error", "tool_use_failed"
    else:
        text, kind, code = "Service Unavailable", "internal_server_error", "service_unavailable"
    return envelope(text, kind, code=code, **extra)
