"""Errors of the legacy Completions API, which are those of chat completions."""

from services.gateway.apis.surface import ErrorResponse
from services.gateway.http.errors import HTTPError


def error(error: HTTPError, *, request_id: str) -> ErrorResponse:
    """Return an error in OpenAI's envelope."""
    return ErrorResponse(error.status, error.body, error.headers)
