"""Errors in Anthropic's envelope, with the texts from which Claude Code recovers.

| status             | type                  |
|--------------------|-----------------------|
| 401                | authentication_error  |
| 402                | billing_error         |
| 403                | permission_error      |
| 404                | not_found_error       |
| 413                | request_too_large     |
| 429                | rate_limit_error      |
| 503, 529           | overloaded_error      |
| 504                | timeout_error         |
| any other 4xx      | invalid_request_error |
| any other          | api_error             |

Claude Code retries up to six times, each time without another feature, unless a 400 names the feature that is not
supported: the message `capability_rejected: document_block` makes it remove documents. It shortens the
conversation after "prompt is too long: 200000 tokens > 131072 maximum". Source: Anthropic's gateway protocol.
"""

import re

from msgspec.json import Encoder

from services.gateway.apis.messages.blocks import DOCUMENT_REFUSED, IMAGE_REFUSED
from services.gateway.http.errors import HTTPError
from services.gateway.requests.surface import ErrorResponse
from services.gateway.requests.types import JSONObject

_encode = Encoder().encode
_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_WINDOW = 131_072
"""Context window of Groq's chat models, for models whose window is not known."""
_CAPABILITIES = frozenset({DOCUMENT_REFUSED, IMAGE_REFUSED})
_ELEMENT = re.compile(r"\[([0-9]+)\]")


def error(
    failure: HTTPError, *, request_id: str, prompt_tokens: int = 0, context_window: int | None = None
) -> ErrorResponse:
    """Return an error response.

    Args:
        failure: The error.
        request_id: The request's id.
        prompt_tokens: Estimate of the prompt's tokens, for the message about a prompt that is too long.
        context_window: Tokens that the model accepts; None means not known.
    """
    body = {
        "type": "error",
        "error": error_object(failure, prompt_tokens=prompt_tokens, context_window=context_window),
        "request_id": request_id,
    }
    headers = {**failure.headers, "request-id": request_id}
    if failure.status == 401:
        headers["x-should-retry"] = "false"  # Without it, Claude Code retries twice.
    return ErrorResponse(failure.status, _encode(body), headers)


def error_object(failure: HTTPError, *, prompt_tokens: int = 0, context_window: int | None = None) -> JSONObject:
    """Return the `error` member, which an `error` event has, too. The arguments are those of `error`."""
    kind = _TYPES.get(failure.status, "invalid_request_error" if failure.status < 500 else "api_error")
    message = _message(failure)
    if failure.code == "context_length_exceeded":
        most = context_window or _WINDOW
        message = f"prompt is too long: {max(prompt_tokens, most + 1)} tokens > {most} maximum"
    if failure.code in _CAPABILITIES:
        return {"type": kind, "message": f"capability_rejected: {failure.code}", "detail": message}
    return {"type": kind, "message": message}


def _message(failure: HTTPError) -> str:
    """Return the message with Anthropic's form of paths, `messages.0.content`."""
    if not failure.param:
        return failure.message
    path = _ELEMENT.sub(r".\1", failure.param)
    if failure.code == "missing_required_parameter":
        return f"{path}: Field required"
    return failure.message.replace(failure.param, path)
