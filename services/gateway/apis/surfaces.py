"""Errors in the envelope of the surface to which a path belongs."""

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from services.gateway.apis.chat_completions import surface as chat_completions
from services.gateway.http.errors import HTTPError
from services.gateway.http.middleware import REQUEST_ID
from services.gateway.http.responses import json_response
from services.gateway.requests.surface import ErrorResponse

_ENVELOPES: Mapping[str, Callable[[HTTPError, str], ErrorResponse]] = {}
"""Functions that render errors, by the beginning of a canonical path. All other paths have OpenAI's envelope."""


def render_error(scope: Scope, error: HTTPError) -> ErrorResponse:
    """Return an error in the envelope of the request's surface."""
    root = "/".join(scope["path"].split("/", 4)[:4])
    return _ENVELOPES.get(root, chat_completions.error)(error, scope.get(REQUEST_ID, ""))


def error_response(request: Request, error: HTTPError) -> Response:
    """Return the HTTP response to an error."""
    rendered = render_error(request.scope, error)
    return json_response(rendered.body, status=rendered.status, headers=rendered.headers)
